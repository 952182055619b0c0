/* Where the innermost loop number `line` begins in an input. */
static int32_t engine_pairs_start(const int32_t *size, const int32_t *step, int32_t line)
{
    int32_t start = 0;
    for (int32_t axis = 3; axis >= 0; axis--) {
        start += line % size[axis] * step[axis];
        line /= size[axis];
    }
    return start;
}

static int32_t engine_pairs_lines(const engine_pairs_t *pairs)
{
    return pairs->size[0] * pairs->size[1] * pairs->size[2] * pairs->size[3];
}
