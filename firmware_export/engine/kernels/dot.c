#if ENGINE_DSP

/* One patch, four channels: r0 patch, r1 weights, r2 r3 four values of the patch, r4-r7 sums, r8-r11 weights of four
   channels, r12 the weights' end, lr two weights. */
#define ENGINE_ROW_INT16                                                                                 \
    "ldrd r2, r3, [r0], #8\n\t"                                                                          \
    "ldmia r1!, {r8-r11}\n\t"                                                                            \
    "smlad r4, r2, r8, r4\n\tsmlad r5, r2, r9, r5\n\tsmlad r6, r2, r10, r6\n\tsmlad r7, r2, r11, r7\n\t" \
    "ldmia r1!, {r8-r11}\n\t"                                                                            \
    "smlad r4, r3, r8, r4\n\tsmlad r5, r3, r9, r5\n\tsmlad r6, r3, r10, r6\n\tsmlad r7, r3, r11, r7\n\t"

#define ENGINE_ROW_CHANNEL(sum, weights)                           \
    "sxtb16 lr, " weights "\n\tsmlad " sum ", r2, lr, " sum "\n\t" \
    "sxtb16 lr, " weights ", ror #8\n\tsmlad " sum ", r3, lr, " sum "\n\t"

#define ENGINE_ROW_INT8                                           \
    "ldrd r2, r3, [r0], #8\n\t"                                   \
    "ldmia r1!, {r8-r11}\n\t"                                     \
    ENGINE_ROW_CHANNEL("r4", "r8") ENGINE_ROW_CHANNEL("r5", "r9") \
    ENGINE_ROW_CHANNEL("r6", "r10") ENGINE_ROW_CHANNEL("r7", "r11")

/* One channel; a POSITIVE one may be computed as SIGNED, as the clamp hides the difference. */
#define ENGINE_SIGNED_ONE(a)          \
    "ldmia lr!, {r2, r3, r12}\n\t"    \
    "add r3, r3, " a ", asr #31\n\t"  \
    "smmlar " a ", " a ", r2, r3\n\t" \
    "asr " a ", " a ", r12\n\t"       \
    "ssat " a ", #8, " a "\n\t"

#define ENGINE_ROW(quad, quad_shift)                                                                \
    "push {r4-r11, lr}\n\t"                                                                         \
    "ldmia r0, {r1-r12}\n\t"                                                                        \
    "push {r1-r12}\n\t"                                                                             \
    "ldr r1, [sp, #4]\n\t"                                                                          \
    "1:\n\t" /* a block: sums begin with the bias */                                                \
    "ldr r12, [sp, #8]\n\t"                                                                         \
    "ldmia r12!, {r4-r7}\n\t"                                                                       \
    "str r12, [sp, #8]\n\t"                                                                         \
    "ldr r0, [sp, #0]\n\t"                                                                          \
    "ldr r2, [sp, #28]\n\t"                                                                         \
    "add r12, r1, r2, lsl #" quad_shift "\n\t"                                                      \
    "lsls r2, r2, #31\n\t"                                                                          \
    "beq 2f\n\t" quad                                                                               \
    "b 3f\n\t"                                                                                      \
    "2:\n\t" quad quad                                                                              \
    "3:\n\t"                                                                                        \
    "cmp r1, r12\n\t"                                                                               \
    "bne 2b\n\t"                                                                                    \
    "ldr lr, [sp, #12]\n\t"                                                                         \
    ENGINE_SIGNED_ONE("r4") ENGINE_SIGNED_ONE("r5") ENGINE_SIGNED_ONE("r6") ENGINE_SIGNED_ONE("r7") \
    "str lr, [sp, #12]\n\t"                                                                         \
    "bfi r4, r5, #8, #8\n\tbfi r4, r6, #16, #8\n\tbfi r4, r7, #24, #8\n\t"                          \
    "ldr r2, [sp, #32]\n\t"                                                                         \
    "ssub8 r3, r4, r2\n\tsel r4, r4, r2\n\t"                                                        \
    "ldr r2, [sp, #36]\n\t"                                                                         \
    "ssub8 r3, r2, r4\n\tsel r4, r4, r2\n\t"                                                        \
    "ldr r2, [sp, #16]\n\t"                                                                         \
    "str r4, [r2], #4\n\t"                                                                          \
    "str r2, [sp, #16]\n\t"                                                                         \
    "ldr r2, [sp, #24]\n\t"                                                                         \
    "subs r2, r2, #1\n\t"                                                                           \
    "str r2, [sp, #24]\n\t"                                                                         \
    "bne 1b\n\t"                                                                                    \
    "add sp, sp, #48\n\t"                                                                           \
    "pop {r4-r11, pc}\n\t"

__attribute__((naked)) static void engine_short_row_int8(const engine_blocks_t *blocks __attribute__((unused)))
{
    __asm__(ENGINE_ROW(ENGINE_ROW_INT8, "4"));
}

__attribute__((naked)) static void engine_short_row_int16(const engine_blocks_t *blocks __attribute__((unused)))
{
    __asm__(ENGINE_ROW(ENGINE_ROW_INT16, "5"));
}

#endif

/* One patch and four channels in plain C: the place of k1, k3 is half a quad of patches further. */
static void engine_sums_int8(
    const engine_i16 *patch, int32_t step, const int8_t *weights, int32_t quads, int32_t *acc)
{
    const int32_t half = step / 2;
    uint32_t acc0 = (uint32_t)acc[0], acc1 = (uint32_t)acc[1], acc2 = (uint32_t)acc[2], acc3 = (uint32_t)acc[3];
    for (const int8_t *end = weights + quads * 16; weights != end; weights += 16) {
        const int32_t k0 = patch[0], k2 = patch[1], k1 = patch[half], k3 = patch[half + 1];
        acc0 += (uint32_t)(k0 * weights[0] + k1 * weights[1] + k2 * weights[2] + k3 * weights[3]);
        acc1 += (uint32_t)(k0 * weights[4] + k1 * weights[5] + k2 * weights[6] + k3 * weights[7]);
        acc2 += (uint32_t)(k0 * weights[8] + k1 * weights[9] + k2 * weights[10] + k3 * weights[11]);
        acc3 += (uint32_t)(k0 * weights[12] + k1 * weights[13] + k2 * weights[14] + k3 * weights[15]);
        patch += step;
    }
    acc[0] = (int32_t)acc0;
    acc[1] = (int32_t)acc1;
    acc[2] = (int32_t)acc2;
    acc[3] = (int32_t)acc3;
}

static void engine_sums_int16(
    const engine_i16 *patch, int32_t step, const int16_t *weights, int32_t quads, int32_t *acc)
{
    const int32_t half = step / 2;
    uint32_t acc0 = (uint32_t)acc[0], acc1 = (uint32_t)acc[1], acc2 = (uint32_t)acc[2], acc3 = (uint32_t)acc[3];
    for (const int16_t *end = weights + quads * 16; weights != end; weights += 16) {
        const int32_t k0 = patch[0], k2 = patch[1], k1 = patch[half], k3 = patch[half + 1];
        acc0 += (uint32_t)(k0 * weights[0] + k1 * weights[8] + k2 * weights[1] + k3 * weights[9]);
        acc1 += (uint32_t)(k0 * weights[2] + k1 * weights[10] + k2 * weights[3] + k3 * weights[11]);
        acc2 += (uint32_t)(k0 * weights[4] + k1 * weights[12] + k2 * weights[5] + k3 * weights[13]);
        acc3 += (uint32_t)(k0 * weights[6] + k1 * weights[14] + k2 * weights[7] + k3 * weights[15]);
        patch += step;
    }
    acc[0] = (int32_t)acc0;
    acc[1] = (int32_t)acc1;
    acc[2] = (int32_t)acc2;
    acc[3] = (int32_t)acc3;
}

/* Four channels of one patch, from sums to int8. */
static void engine_blocks_store(
    const engine_blocks_t *blocks, const int32_t *acc, const engine_channel_t *channels, int8_t *output)
{
    for (int32_t channel = 0; channel < 4; channel++) {
        const int32_t value = engine_rescale(acc[channel], channels + channel, blocks->form);
        output[channel] = (int8_t)engine_clamp(value, (int8_t)(blocks->low & 255), (int8_t)(blocks->high & 255));
    }
}

/* The blocks in plain C, of one patch or of two side by side. */
static void engine_blocks_plain(const engine_blocks_t *blocks, int32_t wide, int32_t patches)
{
    for (int32_t at = 0; at < blocks->blocks * 4; at += 4) {
        for (int32_t patch = patches - 1; patch >= 0; patch--) {
            const engine_i16 *values = blocks->patches + patch * 2;
            int32_t acc[4] = {blocks->bias[at], blocks->bias[at + 1], blocks->bias[at + 2], blocks->bias[at + 3]};
            if (wide) {
                const int16_t *weights = (const int16_t *)blocks->weights + at * blocks->quads * 4;
                engine_sums_int16(values, patches * 4, weights, blocks->quads, acc);
            } else {
                const int8_t *weights = (const int8_t *)blocks->weights + at * blocks->quads * 4;
                engine_sums_int8(values, patches * 4, weights, blocks->quads, acc);
            }
            engine_blocks_store(blocks, acc, blocks->channels + at, (patch ? blocks->second : blocks->first) + at);
        }
    }
}

void engine_row_int8(const engine_blocks_t *blocks)
{
#if ENGINE_DSP
    if (blocks->form != ENGINE_LONG) {
        engine_short_row_int8(blocks);
        return;
    }
#endif
    engine_blocks_plain(blocks, 0, 1);
}

void engine_row_int16(const engine_blocks_t *blocks)
{
#if ENGINE_DSP
    if (blocks->form != ENGINE_LONG) {
        engine_short_row_int16(blocks);
        return;
    }
#endif
    engine_blocks_plain(blocks, 1, 1);
}

/* The quad of fewer than four values at the end of a run. */
static void engine_unpack_rest(
    engine_i16 *patch, const int8_t *values, int32_t count, int32_t zero, int32_t scale, int32_t half)
{
    patch[0] = (int16_t)((values[0] - zero) * scale);
    patch[1] = (int16_t)(count > 2 ? (values[2] - zero) * scale : 0);
    patch[half] = (int16_t)(count > 1 ? (values[1] - zero) * scale : 0);
    patch[half + 1] = 0;
}

engine_i16 *engine_unpack(
    engine_i16 *patch, const int8_t *values, int32_t count, int32_t zero, int32_t scale, int32_t step)
{
    const int32_t half = step / 2;
    const int8_t *end = values + (count & ~3);
#if ENGINE_DSP
    const uint32_t zeros = (uint32_t)(uint16_t)-zero * 0x10001u;
    while (values != end) {
        engine_unpack_quad(patch, patch + half, values, zeros, scale == 2);
        values += 4;
        patch += step;
    }
#else
    while (values != end) {
        patch[0] = (int16_t)((values[0] - zero) * scale);
        patch[1] = (int16_t)((values[2] - zero) * scale);
        patch[half] = (int16_t)((values[1] - zero) * scale);
        patch[half + 1] = (int16_t)((values[3] - zero) * scale);
        values += 4;
        patch += step;
    }
#endif
    if (count & 3) {
        engine_unpack_rest(patch, values, count & 3, zero, scale, half);
        patch += step;
    }
    return patch;
}
