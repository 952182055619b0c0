#if ENGINE_DSP

/* Two sums in a register: 254 values fit 16 bits. */
void engine_add_fours(int32_t *sums, const int8_t *values, int32_t count, int32_t step)
{
    while (count > 0) {
        const int32_t part = count < 254 ? count : 254;
        const int8_t *end = values + (part & ~1) * step;
        uint32_t even = 0, odd = 0;
        while (values != end) {
            const uint32_t first = engine_load(values), second = engine_load(values + step);
            even = engine_sxtab16(engine_sxtab16(even, first), second);
            odd = engine_sxtab16_odd(engine_sxtab16_odd(odd, first), second);
            values += 2 * step;
        }
        if (part & 1) {
            even = engine_sxtab16(even, engine_load(values));
            odd = engine_sxtab16_odd(odd, engine_load(values));
            values += step;
        }
        sums[0] += (int16_t)(even & 0xffff);
        sums[1] += (int16_t)(odd & 0xffff);
        sums[2] += (int16_t)(even >> 16);
        sums[3] += (int16_t)(odd >> 16);
        count -= part;
    }
}

#else

void engine_add_fours(int32_t *sums, const int8_t *values, int32_t count, int32_t step)
{
    int32_t first = sums[0], second = sums[1], third = sums[2], fourth = sums[3];
    for (int32_t i = 0; i < count; i++) {
        first += values[0];
        second += values[1];
        third += values[2];
        fourth += values[3];
        values += step;
    }
    sums[0] = first;
    sums[1] = second;
    sums[2] = third;
    sums[3] = fourth;
}

#endif
