/* 1 / (1 + value) in Q0.31 for a Q0.31 in [0, 1): Newton's method, three steps. */
static int32_t engine_softmax_inverse(int32_t value)
{
    const int32_t half = (int32_t)(((int64_t)value + INT32_MAX + 1) / 2);
    int32_t x = 1515870810 + engine_multiply(half, -1010580540, 0);
    for (int32_t step = 0; step < 3; step++) {
        const int32_t error = ((int32_t)1 << 29) - engine_multiply(half, x, 0);
        const int64_t correction = (int64_t)engine_multiply(x, error, 0) * 4;
        const int64_t bounded = correction > INT32_MAX ? INT32_MAX : correction < INT32_MIN ? INT32_MIN : correction;
        x = engine_add(x, (int32_t)bounded);
    }
    return x > INT32_MAX / 2 ? INT32_MAX : x * 2;
}

static int32_t engine_softmax_maximum(const int8_t *input, int32_t depth)
{
    int32_t largest = INT8_MIN;
    for (int32_t i = 0; i < depth; i++) {
        largest = input[i] > largest ? input[i] : largest;
    }
    return largest;
}

static void engine_softmax_row(const int32_t *exponentials, int32_t depth, const int8_t *input, int8_t *output)
{
    const int32_t largest = engine_softmax_maximum(input, depth);
    uint32_t sum = 0; /* Q12.19 */
    for (int32_t i = 0; i < depth; i++) {
        sum += ((uint32_t)exponentials[largest - input[i]] + (1u << 11)) >> 12;
    }
    int32_t headroom = 0;
    while (sum < (uint32_t)1 << 31) {
        sum <<= 1;
        headroom++;
    }
    const int32_t scale = engine_softmax_inverse((int32_t)(sum - ((uint32_t)1 << 31)));
    const int32_t exponent = 12 - headroom + 23;
    for (int32_t i = 0; i < depth; i++) {
        const int32_t share = engine_multiply(scale, exponentials[largest - input[i]], 0);
        const int32_t value = (int32_t)(((int64_t)share + ((int64_t)1 << (exponent - 1))) >> exponent);
        output[i] = (int8_t)engine_clamp(value - 128, INT8_MIN, INT8_MAX);
    }
}

void engine_softmax(const engine_softmax_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t row = 0; row < layer->rows; row++) {
        engine_softmax_row(layer->exponentials, layer->depth, input + row * layer->depth, output + row * layer->depth);
    }
}
