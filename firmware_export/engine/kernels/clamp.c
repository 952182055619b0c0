void engine_clamp_all(int8_t *values, int32_t count, int32_t low, int32_t high)
{
    const int8_t *end = values + count;
#if ENGINE_DSP
    const uint32_t lows = (uint8_t)low * 0x1010101u, highs = (uint8_t)high * 0x1010101u;
    const int8_t *words = values + (count & ~3);
    while (values != words) {
        const uint32_t raised = engine_larger(engine_load(values), lows);
        const uint32_t word = engine_smaller(raised, highs);
        (void)memcpy(values, &word, sizeof word);
        values += 4;
    }
#endif
    while (values != end) {
        *values = (int8_t)engine_clamp(*values, low, high);
        values++;
    }
}
