/* Add `count` values of each of four neighbouring channels to their sums; `step` bytes lie from pixel to pixel. */
void engine_add_fours(int32_t *sums, const int8_t *values, int32_t count, int32_t step);
