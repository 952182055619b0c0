#if ENGINE_DSP

/* Sixteen values at a time: r0 values, r1 end, r2 the limit four times. */
#define ENGINE_CLAMP(word, a, b) "ssub8 r12, " a ", " b "\n\tsel " word ", " word ", r2\n\t"
#define ENGINE_CLAMP_FUNCTION(name, each)                                                  \
    __attribute__((naked)) static void name(                                               \
        int8_t *values __attribute__((unused)), const int8_t *end __attribute__((unused)), \
        uint32_t limit __attribute__((unused)))                                            \
    {                                                                                      \
        __asm__("push {r4-r6, lr}\n\t"                                                     \
                "1:\n\t"                                                                   \
                "ldmia r0, {r3-r6}\n\t" each("r3") each("r4") each("r5") each("r6")        \
                "stmia r0!, {r3-r6}\n\t"                                                   \
                "cmp r0, r1\n\t"                                                           \
                "bne 1b\n\t"                                                               \
                "pop {r4-r6, pc}\n\t");                                                    \
    }
#define ENGINE_CLAMP_LOW(word) ENGINE_CLAMP(word, word, "r2")
#define ENGINE_CLAMP_HIGH(word) ENGINE_CLAMP(word, "r2", word)

ENGINE_CLAMP_FUNCTION(engine_clamp_low, ENGINE_CLAMP_LOW)
ENGINE_CLAMP_FUNCTION(engine_clamp_high, ENGINE_CLAMP_HIGH)

#endif

void engine_clamp_all(int8_t *values, int32_t count, int32_t low, int32_t high)
{
    const int8_t *end = values + count;
#if ENGINE_DSP
    const int8_t *sixteens = values + (count & ~15);
    if (values != sixteens && low > INT8_MIN) {
        engine_clamp_low(values, sixteens, (uint8_t)low * 0x1010101u);
    }
    if (values != sixteens && high < INT8_MAX) {
        engine_clamp_high(values, sixteens, (uint8_t)high * 0x1010101u);
    }
    values += count & ~15;
#endif
    while (values != end) {
        *values = (int8_t)engine_clamp(*values, low, high);
        values++;
    }
}
