/* factor * value / 256, rounded down, in 32 bits. */
static inline int32_t engine_linear_part(int32_t factor, int32_t value)
{
    return (factor >> 8) * value + (((factor & 255) * value) >> 8);
}

/* A line of both tensors. The order of members is known to the assembly. */
typedef struct {
    const int8_t *a;
    const int8_t *b;
    int8_t *output;
    const int8_t *end; /* of the output, at least four values */
    int32_t factor_a, factor_b, offset;
    uint32_t odd; /* 0xff00ff00 */
} engine_linear_line_t;

#if ENGINE_DSP
/* Four values at a time, two of each tensor in a register, times 256: r8 r10 those of a, r9 r11 of b, sums in r12 lr
   and r8 r9. */
__attribute__((naked)) static void engine_linear_fours(const engine_linear_line_t *line __attribute__((unused)))
{
    __asm__("push {r4-r11, lr}\n\t"
            "ldmia r0, {r0-r7}\n\t"
            "1:\n\t"
            "ldr r10, [r0], #4\n\t"
            "ldr r11, [r1], #4\n\t"
            "and r8, r7, r10, lsl #8\n\t"
            "and r9, r7, r11, lsl #8\n\t"
            "and r10, r10, r7\n\t"
            "and r11, r11, r7\n\t"
            "smlawb r12, r4, r8, r6\n\t"
            "smlawt lr, r4, r8, r6\n\t"
            "smlawb r12, r5, r9, r12\n\t"
            "smlawt lr, r5, r9, lr\n\t"
            "smlawb r8, r4, r10, r6\n\t"
            "smlawt r9, r4, r10, r6\n\t"
            "smlawb r8, r5, r11, r8\n\t"
            "smlawt r9, r5, r11, r9\n\t"
            "ssat r12, #8, r12, asr #21\n\t"
            "ssat lr, #8, lr, asr #21\n\t"
            "ssat r8, #8, r8, asr #21\n\t"
            "ssat r9, #8, r9, asr #21\n\t"
            "bfi r12, r8, #8, #8\n\t"
            "bfi r12, lr, #16, #8\n\t"
            "bfi r12, r9, #24, #8\n\t"
            "str r12, [r2], #4\n\t"
            "cmp r2, r3\n\t"
            "bne 1b\n\t"
            "pop {r4-r11, pc}\n\t");
}
#endif

static void engine_linear_line(const engine_linear_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t step_a = layer->pairs.step_a[4], step_b = layer->pairs.step_b[4], count = layer->pairs.size[4];
    int32_t done = 0;
#if ENGINE_DSP
    if (step_a == 1 && step_b == 1 && count >= 4) {
        done = count & ~3;
        const engine_linear_line_t line = {
            a, b, output, output + done, layer->factor_a, layer->factor_b, layer->offset, 0xff00ff00u};
        engine_linear_fours(&line);
    }
#endif
    for (int32_t i = done; i < count; i++) {
        const int32_t sum = layer->offset + engine_linear_part(layer->factor_a, a[i * step_a])
                            + engine_linear_part(layer->factor_b, b[i * step_b]);
        output[i] = (int8_t)engine_saturate(sum >> ENGINE_LINEAR_SHIFT);
    }
}

void engine_linear_sum(const engine_linear_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const engine_pairs_t *pairs = &layer->pairs;
    const int32_t lines = engine_pairs_lines(pairs);
    for (int32_t line = 0; line < lines; line++) {
        engine_linear_line(
            layer,
            a + engine_pairs_start(pairs->size, pairs->step_a, line),
            b + engine_pairs_start(pairs->size, pairs->step_b, line),
            output + line * pairs->size[4]);
    }
    if (layer->low > INT8_MIN || layer->high < INT8_MAX) {
        engine_clamp_all(output, lines * pairs->size[4], layer->low, layer->high);
    }
}
