#if ENGINE_DSP
/* A line of both tensors. The order of members is known to the assembly. */
typedef struct {
    const int8_t *a;
    const int8_t *b;
    int8_t *output;
    const int8_t *end; /* of the output, at least four values */
    uint32_t zeros_a, zeros_b; /* twice the negated zero point */
    engine_channel_t rescale;
} engine_product_line_t;

#define ENGINE_PRODUCT_1(product)          \
    "add lr, r7, " product ", asr #31\n\t" \
    "smmlar " product ", " product ", r6, lr\n\t"
#define ENGINE_PRODUCT_2(product)          \
    "asr " product ", " product ", r8\n\t" \
    "ssat " product ", #8, " product "\n\t"

/* Four values at a time: r4 r5 zeros, r6 mantissa, r7 addend, r8 shift, products in r11 r12 r9 r10. A POSITIVE form is
   computed as SIGNED, as the clamp hides the difference. */
__attribute__((naked)) static void engine_product_fours(const engine_product_line_t *line __attribute__((unused)))
{
    __asm__("push {r4-r11, lr}\n\t"
            "ldmia r0, {r0-r8}\n\t"
            "1:\n\t"
            "ldr r9, [r0], #4\n\t"
            "ldr r10, [r1], #4\n\t"
            "sxtab16 r11, r4, r9\n\t"
            "sxtab16 r12, r5, r10\n\t"
            "sxtab16 r9, r4, r9, ror #8\n\t"
            "sxtab16 r10, r5, r10, ror #8\n\t"
            "sadd16 r11, r11, r11\n\t"
            "sadd16 r9, r9, r9\n\t"
            "smulbb lr, r11, r12\n\t"
            "smultt r12, r11, r12\n\t"
            "mov r11, lr\n\t"
            "smulbb lr, r9, r10\n\t"
            "smultt r10, r9, r10\n\t"
            "mov r9, lr\n\t"
            ENGINE_PRODUCT_1("r11") ENGINE_PRODUCT_1("r12") ENGINE_PRODUCT_1("r9") ENGINE_PRODUCT_1("r10")
            ENGINE_PRODUCT_2("r11") ENGINE_PRODUCT_2("r12") ENGINE_PRODUCT_2("r9") ENGINE_PRODUCT_2("r10")
            "bfi r11, r9, #8, #8\n\t"
            "bfi r11, r12, #16, #8\n\t"
            "bfi r11, r10, #24, #8\n\t"
            "str r11, [r2], #4\n\t"
            "cmp r2, r3\n\t"
            "bne 1b\n\t"
            "pop {r4-r11, pc}\n\t");
}
#endif

static void engine_product_line(
    const engine_product_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t step_a = layer->pairs.step_a[4], step_b = layer->pairs.step_b[4], count = layer->pairs.size[4];
    const int32_t scale = layer->form == ENGINE_LONG ? 1 : 2;
    int32_t done = 0;
#if ENGINE_DSP
    if (layer->form != ENGINE_LONG && step_a == 1 && step_b == 1 && count >= 4) {
        done = count & ~3;
        const engine_product_line_t line = {
            a, b, output, output + done,
            (uint32_t)(uint16_t)-layer->zero_a * 0x10001u, (uint32_t)(uint16_t)-layer->zero_b * 0x10001u,
            layer->rescale};
        engine_product_fours(&line);
    }
#endif
    for (int32_t i = done; i < count; i++) {
        const int32_t product = (a[i * step_a] - layer->zero_a) * (b[i * step_b] - layer->zero_b) * scale;
        output[i] = (int8_t)engine_saturate(engine_rescale(product, &layer->rescale, layer->form));
    }
}

void engine_product(const engine_product_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const engine_pairs_t *pairs = &layer->pairs;
    const int32_t lines = engine_pairs_lines(pairs);
    for (int32_t line = 0; line < lines; line++) {
        engine_product_line(
            layer,
            a + engine_pairs_start(pairs->size, pairs->step_a, line),
            b + engine_pairs_start(pairs->size, pairs->step_b, line),
            output + line * pairs->size[4]);
    }
    if (layer->low > INT8_MIN || layer->high < INT8_MAX) {
        engine_clamp_all(output, lines * pairs->size[4], layer->low, layer->high);
    }
}
