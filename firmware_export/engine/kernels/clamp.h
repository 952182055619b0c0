/* Bring `count` values into a range; they are aligned to 4. */
void engine_clamp_all(int8_t *values, int32_t count, int32_t low, int32_t high);
