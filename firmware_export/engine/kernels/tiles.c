#if ENGINE_DSP

/* Two patches, two channels: r0 patches, r1 weights, r2 r3 r8 r9 four values of each patch, r10-r12 lr four weights of
   each channel, r4 r5 sums of the first patch, r6 r7 of the second. */
#define ENGINE_TILES_QUAD                                     \
    "ldmia.w r0!, {r2, r3, r8, r9}\n\t"                       \
    "ldmia.w r1!, {r10, r11, r12, lr}\n\t"                    \
    "smlad r4, r2, r10, r4\n\tsmlad r5, r2, r11, r5\n\t"      \
    "smlad r6, r3, r10, r6\n\tsmlad r7, r3, r11, r7\n\t"      \
    "smlad r4, r8, r12, r4\n\tsmlad r5, r8, lr, r5\n\t"       \
    "smlad r6, r9, r12, r6\n\tsmlad r7, r9, lr, r7\n\t"
#define ENGINE_TILES_QUADS ENGINE_TILES_QUAD ENGINE_TILES_QUAD ENGINE_TILES_QUAD ENGINE_TILES_QUAD

/* Four sums to int8 by the FIXED form. */
#define ENGINE_TILES_FIXED                                                \
    "ldmia.w r1!, {r8, r9, r10, r11}\n\t"                                 \
    "smmla r4, r4, r8, r9\n\tsmmla r6, r6, r8, r9\n\t"                    \
    "smmla r5, r5, r10, r11\n\tsmmla r7, r7, r10, r11\n\t"                \
    "ssat r4, #8, r4, asr #12\n\tssat r6, #8, r6, asr #12\n\t"            \
    "ssat r5, #8, r5, asr #12\n\tssat r7, #8, r7, asr #12\n\t"

/* One channel of both patches by the SIGNED form, which POSITIVE ones may take, as the clamp hides the difference. */
#define ENGINE_TILES_SIGNED(a, b)                                         \
    "ldmia.w r1!, {r2, r3, r8}\n\t"                                       \
    "add r9, r3, " a ", asr #31\n\tsmmlar " a ", " a ", r2, r9\n\t"       \
    "add r9, r3, " b ", asr #31\n\tsmmlar " b ", " b ", r2, r9\n\t"       \
    "asr " a ", " a ", r8\n\tssat " a ", #8, " a "\n\t"                   \
    "asr " b ", " b ", r8\n\tssat " b ", #8, " b "\n\t"

#define ENGINE_TILES_JOIN "bfi r6, r7, #8, #8\n\tbfi r4, r5, #8, #8\n\t"

/* Both channels of both patches stored, the second patch's first, as it may be none; then the next pair. */
#define ENGINE_TILES_STORE                                                \
    "ldm sp, {r2, r3, r8}\n\t"                                            \
    "strh r6, [r2, r3]\n\tstrh r4, [r2]\n\t"                              \
    "add r2, r2, r3, lsl #1\n\tstr r2, [sp, #0]\n\t"                      \
    "cmp r0, r8\n\tbne.w 1b\n\t"

/* Stack: 0 output, 4 pitch and 8 end of the pairs, as a block goes on; 12 weights of the block, 16 where its quads
   begin in the code, 20 where they go on, 24 end of its quads, 28 code of the form, 32 number of that; from 36 on
   engine_tiles_t. */
__attribute__((naked)) static void engine_tiles_run(
    const engine_tiles_t *pairs __attribute__((unused)), int32_t code __attribute__((unused)))
{
    __asm__(
        "push {r4-r11, lr}\n\t"
        "ldmia.w r0, {r2-r12, lr}\n\t"
        "push {r2-r12, lr}\n\t"
        "sub sp, sp, #36\n\t"
        "str r1, [sp, #32]\n\t"
        "rsb r2, r8, #0\n\t" /* the first of some quads that are no multiple of 16 */
        "and r2, r2, #15\n\t"
        "movs r3, #40\n\t"
        "adr.w r4, 2f\n\t"
        "mla r2, r2, r3, r4\n\t"
        "orr r2, r2, #1\n\t"
        "str r2, [sp, #16]\n\t"
        "adr.w r3, 5f\n\t"
        "cmp r1, #1\n\t"
        "bne.n 10f\n\t"
        "adr.w r3, 4f\n\t"
        "10:\n\t"
        "blo.n 11f\n\t"
        "b.n 12f\n\t"
        "11: adr.w r3, 6f\n\t"
        "12:\n\t"
        "orr r3, r3, #1\n\t"
        "str r3, [sp, #28]\n\t"
        "cmp r8, #16\n\t"
        "bls.n 13f\n\t"
        "adr.w r3, 3f\n\t"
        "orr r3, r3, #1\n\t"
        "13: str r3, [sp, #20]\n\t"

        "8:\n\t" /* a block */
        "ldr r1, [sp, #56]\n\t"
        "ldr r0, [sp, #68]\n\t"
        "cmp r0, #0\n\t"
        "beq.n 7f\n\t"
        "ldmia r1!, {r4-r7}\n\t" /* its int8 weights become int16, in front bias, behind what rescales */
        "stmia r0!, {r4-r7}\n\t"
        "ldr r2, [sp, #60]\n\t"
        "mov.w r12, #0xff00ff00\n\t"
        "ldr r3, [sp, #32]\n\t"
        "cmp r3, #2\n\t"
        "beq.n 22f\n\t"
        "lsrs r2, r2, #1\n\t"
        "bcc.n 21f\n\t"
        "ldmia r1!, {r4, r5}\n\t"
        "and r8, r12, r4, lsl #8\n\tand r9, r12, r5, lsl #8\n\tand r10, r12, r4\n\tand r11, r12, r5\n\t"
        "stmia.w r0!, {r8-r11}\n\t"
        "cbz r2, 23f\n\t"
        "21:\n\t"
        "ldmia r1!, {r4-r7}\n\t"
        "and r8, r12, r4, lsl #8\n\tand r9, r12, r5, lsl #8\n\tand r10, r12, r4\n\tand r11, r12, r5\n\t"
        "stmia.w r0!, {r8-r11}\n\t"
        "and r8, r12, r6, lsl #8\n\tand r9, r12, r7, lsl #8\n\tand r10, r12, r6\n\tand r11, r12, r7\n\t"
        "stmia.w r0!, {r8-r11}\n\t"
        "subs r2, r2, #1\n\t"
        "bne.n 21b\n\t"
        "b.n 23f\n\t"
        "22:\n\t"
        "ldmia r1!, {r4, r5}\n\t"
        "sxtb16 r8, r4\n\tsxtb16 r9, r5\n\tsxtb16 r10, r4, ror #8\n\tsxtb16 r11, r5, ror #8\n\t"
        "sadd16 r8, r8, r8\n\tsadd16 r9, r9, r9\n\tsadd16 r10, r10, r10\n\tsadd16 r11, r11, r11\n\t"
        "stmia.w r0!, {r8-r11}\n\t"
        "subs r2, r2, #1\n\t"
        "bne.n 22b\n\t"
        "ldmia r1!, {r4, r5}\n\t"
        "stmia r0!, {r4, r5}\n\t"
        "23:\n\t"
        "ldmia r1!, {r4-r7}\n\t"
        "stmia r0!, {r4-r7}\n\t"
        "str r1, [sp, #56]\n\t"
        "ldr r1, [sp, #68]\n\t"
        "7:\n\t"
        "str r1, [sp, #12]\n\t"
        "ldr r2, [sp, #60]\n\t"
        "add r2, r1, r2, lsl #4\n\t"
        "adds r2, r2, #16\n\t"
        "str r2, [sp, #24]\n\t"
        "ldr r2, [sp, #40]\n\tldr r3, [sp, #44]\n\tldr r4, [sp, #48]\n\t"
        "stm sp, {r2-r4}\n\t"
        "ldr r0, [sp, #36]\n\t"

        "1:\n\t" /* a pair: sums begin with the bias */
        "ldr r1, [sp, #12]\n\t"
        "ldmia r1!, {r4-r7}\n\t"
        "ldr pc, [sp, #16]\n\t"
        "2:\n\t" ENGINE_TILES_QUADS ENGINE_TILES_QUADS ENGINE_TILES_QUADS ENGINE_TILES_QUADS
        ".if (. - 2b) - 640\n\t.error \"size of quads\"\n\t.endif\n\t"
        "ldr pc, [sp, #20]\n\t"
        "3:\n\t" /* more than 16 quads */
        "ldr r2, [sp, #24]\n\t"
        "cmp r1, r2\n\t"
        "bne.w 2b\n\t"
        "ldr pc, [sp, #28]\n\t"

        "4:\n\t" /* FIXED with an offset */
        ENGINE_TILES_FIXED ENGINE_TILES_JOIN
        "ldr r10, [sp, #72]\n\t"
        "qadd8 r6, r6, r10\n\t"
        "qadd8 r4, r4, r10\n\t"
        ENGINE_TILES_STORE
        "b.n 9f\n\t"
        "5:\n\t" /* SIGNED */
        ENGINE_TILES_SIGNED("r4", "r6") ENGINE_TILES_SIGNED("r5", "r7") ENGINE_TILES_JOIN
        "ldr r2, [sp, #72]\n\t"
        "cbz r2, 51f\n\t"
        "ldrd r2, r3, [sp, #76]\n\t"
        "ssub8 r8, r4, r2\n\tsel r4, r4, r2\n\tssub8 r8, r6, r2\n\tsel r6, r6, r2\n\t"
        "ssub8 r8, r3, r4\n\tsel r4, r4, r3\n\tssub8 r8, r3, r6\n\tsel r6, r6, r3\n\t"
        "51:\n\t"
        ENGINE_TILES_STORE
        "b.n 9f\n\t"
        "6:\n\t" /* FIXED */
        ENGINE_TILES_FIXED ENGINE_TILES_JOIN ENGINE_TILES_STORE

        "9:\n\t" /* once more for an odd patch, then the next block */
        "ldrd r2, r3, [sp, #48]\n\t"
        "cbz r3, 91f\n\t"
        "cmp r8, r2\n\t"
        "bne.n 91f\n\t"
        "add r2, r2, r3\n\t"
        "movs r3, #0\n\t"
        "strd r3, r2, [sp, #4]\n\t"
        "b.w 1b\n\t"
        "91:\n\t"
        "ldr r2, [sp, #68]\n\t"
        "cbnz r2, 92f\n\t"
        "str r1, [sp, #56]\n\t"
        "92:\n\t"
        "ldr r2, [sp, #40]\n\t"
        "adds r2, r2, #2\n\t"
        "str r2, [sp, #40]\n\t"
        "ldr r2, [sp, #64]\n\t"
        "subs r2, r2, #1\n\t"
        "str r2, [sp, #64]\n\t"
        "bne.w 8b\n\t"
        "add sp, sp, #84\n\t"
        "pop {r4-r11, pc}\n\t");
}

/* r0 patches, r1 first, r2 how far second lies behind it, r4 rows left, r5 passes of a row, r6 from the end of a row to
   the next one, r7 where a row begins in the code, r8-r11 a quad, r12 passes left, lr zeros. */
#define ENGINE_UNPACK_PAIR                                                            \
    "ldr.w r11, [r1, r2]\n\tldr.w r10, [r1], #4\n\t"                                  \
    "sxtab16 r8, lr, r10\n\tsxtab16 r9, lr, r11\n\t"                                  \
    "sxtab16 r10, lr, r10, ror #8\n\tsxtab16 r11, lr, r11, ror #8\n\t"                \
    "stmia.w r0!, {r8-r11}\n\t"

__attribute__((naked)) void engine_unpack_pair(
    engine_i16 *patches __attribute__((unused)), const int8_t *first __attribute__((unused)),
    const int8_t *second __attribute__((unused)), const engine_rows_t *rows __attribute__((unused)))
{
    __asm__(
        "push {r4-r11, lr}\n\t"
        "ldmia.w r3, {r4, r5, r6, lr}\n\t"
        "subs r2, r2, r1\n\t"
        "sub r6, r6, r5, lsl #2\n\t"
        "rsb r7, r5, #0\n\t"
        "and r7, r7, #3\n\t"
        "movs r3, #28\n\t"
        "adr.w r12, 2f\n\t"
        "mla r7, r7, r3, r12\n\t"
        "orr r7, r7, #1\n\t"
        "adds r5, r5, #3\n\t"
        "lsrs r5, r5, #2\n\t"
        "1:\n\t"
        "mov r12, r5\n\t"
        "bx r7\n\t"
        "2:\n\t" ENGINE_UNPACK_PAIR ENGINE_UNPACK_PAIR ENGINE_UNPACK_PAIR ENGINE_UNPACK_PAIR
        ".if (. - 2b) - 112\n\t.error \"size of a quad\"\n\t.endif\n\t"
        "subs r12, r12, #1\n\t"
        "bne.n 2b\n\t"
        "add r1, r1, r6\n\t"
        "subs r4, r4, #1\n\t"
        "bne.n 1b\n\t"
        "pop {r4-r11, pc}\n\t");
}

#else

static void engine_unpack_one(engine_i16 *patch, const int8_t *from, const engine_rows_t *rows)
{
    const int32_t zero = (int16_t)(rows->zeros & 0xffffu);
    for (int32_t row = 0; row < rows->rows; row++) {
        for (const int8_t *end = from + rows->quads * 4; from != end; from += 4) {
            patch[0] = (int16_t)(from[0] + zero);
            patch[1] = (int16_t)(from[2] + zero);
            patch[4] = (int16_t)(from[1] + zero);
            patch[5] = (int16_t)(from[3] + zero);
            patch += 8;
        }
        from += rows->step - rows->quads * 4;
    }
}

void engine_unpack_pair(engine_i16 *patches, const int8_t *first, const int8_t *second, const engine_rows_t *rows)
{
    engine_unpack_one(patches, first, rows);
    engine_unpack_one(patches + 2, second, rows);
}

#endif

/* Products of two patches and two channels in plain C: two sums of the first patch, two of the second. */
static void engine_tile_sums_int8(const engine_i16 *patches, const int8_t *weights, int32_t quads, uint32_t *sums)
{
    uint32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    for (const int8_t *end = weights + quads * 8; weights != end; weights += 8) {
        const int32_t k0 = patches[0], k2 = patches[1], k1 = patches[4], k3 = patches[5];
        const int32_t l0 = patches[2], l2 = patches[3], l1 = patches[6], l3 = patches[7];
        sum0 += (uint32_t)(k0 * weights[0] + k1 * weights[1] + k2 * weights[2] + k3 * weights[3]);
        sum1 += (uint32_t)(k0 * weights[4] + k1 * weights[5] + k2 * weights[6] + k3 * weights[7]);
        sum2 += (uint32_t)(l0 * weights[0] + l1 * weights[1] + l2 * weights[2] + l3 * weights[3]);
        sum3 += (uint32_t)(l0 * weights[4] + l1 * weights[5] + l2 * weights[6] + l3 * weights[7]);
        patches += 8;
    }
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
}

static void engine_tile_sums_int16(
    const engine_i16 *patches, const engine_i16 *weights, int32_t quads, uint32_t *sums)
{
    uint32_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    for (const engine_i16 *end = weights + quads * 8; weights != end; weights += 4) {
        sum0 += (uint32_t)(patches[0] * weights[0] + patches[1] * weights[1]);
        sum1 += (uint32_t)(patches[0] * weights[2] + patches[1] * weights[3]);
        sum2 += (uint32_t)(patches[2] * weights[0] + patches[3] * weights[1]);
        sum3 += (uint32_t)(patches[2] * weights[2] + patches[3] * weights[3]);
        patches += 4;
    }
    sums[0] = sum0;
    sums[1] = sum1;
    sums[2] = sum2;
    sums[3] = sum3;
}

/* One sum to int8; `rescale` are the channel's words behind the weights. */
static int8_t engine_tiles_output(const engine_tiles_t *pairs, int32_t form, int32_t acc, const int32_t *rescale)
{
    if (form == ENGINE_FIXED) {
        const int32_t high = (int32_t)(((int64_t)acc * rescale[0]) >> 32) + rescale[1];
        return (int8_t)engine_saturate(engine_saturate(high >> ENGINE_SHIFT) + (int8_t)(pairs->offset & 255));
    }
    const engine_channel_t channel = {rescale[0], rescale[1], rescale[2]};
    return (int8_t)engine_clamp(
        engine_rescale(acc, &channel, form), (int8_t)(pairs->low & 255), (int8_t)(pairs->high & 255));
}

/* One block over all pairs in plain C; returns where the next one begins. */
static const int32_t *engine_tiles_block(
    const engine_tiles_t *pairs, int32_t form, const int32_t *weights, int8_t *output)
{
    const int32_t wide = pairs->expanded == 0, words = pairs->quads * (wide ? 4 : 2), one = form == ENGINE_FIXED ? 2 : 3;
    const int32_t scale = wide || form == ENGINE_LONG ? 0 : form == ENGINE_FIXED ? ENGINE_EXPANDED : 1;
    const int32_t *rescale = weights + 4 + words;
    const engine_i16 *end = pairs->end + pairs->odd / 2;
    for (const engine_i16 *patches = pairs->patches; patches != end; patches += pairs->quads * 8) {
        const int32_t pitch = patches == pairs->end ? 0 : pairs->pitch;
        uint32_t sums[4];
        if (wide) {
            engine_tile_sums_int16(patches, (const engine_i16 *)(weights + 4), pairs->quads, sums);
        } else {
            engine_tile_sums_int8(patches, (const int8_t *)(weights + 4), pairs->quads, sums);
        }
        for (int32_t at = 3; at >= 0; at--) {
            const int32_t acc = (int32_t)((uint32_t)weights[at & 1] + (sums[at] << scale));
            output[(at >> 1) * pitch + (at & 1)] = engine_tiles_output(pairs, form, acc, rescale + (at & 1) * one);
        }
        output += 2 * pitch;
    }
    return rescale + 2 * one;
}

void engine_tiles(const engine_tiles_t *pairs, int32_t form)
{
#if ENGINE_DSP
    if (form != ENGINE_LONG) {
        engine_tiles_run(pairs, form != ENGINE_FIXED ? 2 : pairs->offset != 0);
        return;
    }
#endif
    const int32_t *weights = pairs->weights;
    for (int32_t block = 0; block < pairs->blocks; block++) {
        weights = engine_tiles_block(pairs, form, weights, pairs->output + block * 2);
    }
}
