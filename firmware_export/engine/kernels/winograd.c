/* Tiles of four output pixels that follow each other. The order of members is known to the assembly. */
typedef struct {
    int8_t *output; /* of the first pixel */
    int32_t pitch;  /* bytes from a pixel to the next but one */
    const engine_i16 *end; /* of the tiles */
    int32_t bytes;  /* of one of m0..m3 */
    const engine_i16 *tiles;
    const int32_t *weights;
    int32_t blocks; /* at least 1 */
    uint32_t offset; /* as in engine_tiles_t */
    uint32_t low;
    uint32_t high;
} engine_winograd_t;

#if ENGINE_DSP

/* The next part of a tile begins; `then` is where the code goes on behind it. */
#define ENGINE_WINOGRAD_PART(then)            \
    "ldr r3, [sp, #40]\n\t"                   \
    "adr.w r2, " then "\n\t"                  \
    "adds r2, #1\n\t"                         \
    "add r3, r3, r1\n\t"                      \
    "strd r2, r3, [sp, #20]\n\t"              \
    "ldr pc, [sp, #16]\n\t"

#define ENGINE_WINOGRAD_FIXED                 \
    ENGINE_TILES_FIXED ENGINE_TILES_JOIN      \
    "ldr r10, [sp, #56]\n\t"                  \
    "qadd8 r6, r6, r10\n\t"                   \
    "qadd8 r4, r4, r10\n\t"

#define ENGINE_WINOGRAD_SIGNED(skip)                                                              \
    ENGINE_TILES_SIGNED("r4", "r6") ENGINE_TILES_SIGNED("r5", "r7") ENGINE_TILES_JOIN             \
    "ldr r2, [sp, #56]\n\t"                                                                       \
    "cbz r2, " skip "f\n\t"                                                                       \
    "ldrd r2, r3, [sp, #60]\n\t"                                                                  \
    "ssub8 r8, r4, r2\n\tsel r4, r4, r2\n\tssub8 r8, r6, r2\n\tsel r6, r6, r2\n\t"                \
    "ssub8 r8, r3, r4\n\tsel r4, r4, r3\n\tssub8 r8, r3, r6\n\tsel r6, r6, r3\n\t" skip ":\n\t"

/* The first and the third pixel, then on to the second and the fourth one. */
#define ENGINE_WINOGRAD_FIRST                 \
    "ldrd r2, r3, [sp, #28]\n\t"              \
    "strh r6, [r2, r3]\n\tstrh r4, [r2]\n\t"  \
    "ldm sp, {r4-r7}\n\t"

#define ENGINE_WINOGRAD_SECOND                            \
    "ldrd r2, r3, [sp, #28]\n\t"                          \
    "ldr r8, [sp, #36]\n\t"                               \
    "add r9, r2, r3, lsr #1\n\t"                          \
    "strh r6, [r9, r3]\n\tstrh r4, [r9]\n\t"              \
    "add r2, r2, r3, lsl #1\n\t"                          \
    "str r2, [sp, #28]\n\t"                               \
    "cmp r0, r8\n\tbne.w 1b\n\t"

/* Stack: 0 four sums to be kept, 16 where a part's quads begin in the code, 20 where it goes on behind them, 24 end of
   the part's weights; from 28 on engine_winograd_t, whose output moves; 68 output of the block, 72 weights of the block,
   76 where the code goes on behind m0. The code differs by form, so do the labels behind m0. */
__attribute__((naked)) static void engine_winograd_run(
    const engine_winograd_t *winograd __attribute__((unused)), int32_t is_signed __attribute__((unused)))
{
    __asm__(
        "push {r4-r11, lr}\n\t"
        "ldmia.w r0, {r2-r11}\n\t"
        "sub sp, sp, #16\n\t"
        "str r2, [sp, #0]\n\t"
        "str r1, [sp, #8]\n\t"
        "push {r2-r11}\n\t"
        "sub sp, sp, #28\n\t"
        "rsb r2, r5, #0\n\t" /* the first of some quads that are no multiple of 16: 16 bytes to 40 of code */
        "and r2, r2, #240\n\t"
        "lsrs r2, r2, #1\n\t"
        "add r2, r2, r2, lsl #2\n\t"
        "adr.w r3, 2f\n\t"
        "add r2, r2, r3\n\t"
        "orr r2, r2, #1\n\t"
        "str r2, [sp, #16]\n\t"

        "8:\n\t" /* a block */
        "ldr r1, [sp, #48]\n\t"
        "str r1, [sp, #72]\n\t"
        "ldr r0, [sp, #44]\n\t"
        "ldr r2, [sp, #68]\n\t"
        "str r2, [sp, #28]\n\t"
        "adds r2, r2, #2\n\t"
        "str r2, [sp, #68]\n\t"

        "1:\n\t" /* a tile: m1 on top of the bias */
        "ldr r1, [sp, #72]\n\t"
        "ldmia r1!, {r4-r7}\n\t"
        ENGINE_WINOGRAD_PART("4f")
        "2:\n\t" ENGINE_TILES_QUADS ENGINE_TILES_QUADS ENGINE_TILES_QUADS ENGINE_TILES_QUADS
        "ldr r2, [sp, #24]\n\t"
        "cmp r1, r2\n\t"
        "bne.w 2b\n\t"
        "ldr pc, [sp, #20]\n\t"

        "4:\n\t" /* m2 on top of that; bias + m1 are kept */
        "stm sp, {r4-r7}\n\t"
        ENGINE_WINOGRAD_PART("5f")
        "5:\n\t" /* m0 on top of that; bias + m1 - m2 are kept */
        "ldm sp, {r8-r11}\n\t"
        "rsb r8, r4, r8, lsl #1\n\trsb r9, r5, r9, lsl #1\n\t"
        "rsb r10, r6, r10, lsl #1\n\trsb r11, r7, r11, lsl #1\n\t"
        "stm sp, {r8-r11}\n\t"
        "ldr r2, [sp, #76]\n\t"
        "cmp r2, #0\n\t"
        "bne.n 51f\n\t"
        ENGINE_WINOGRAD_PART("6f")
        "51:\n\t"
        ENGINE_WINOGRAD_PART("16f")

        "6:\n\t" /* m3 on top of what was kept */
        ENGINE_WINOGRAD_FIXED
        ENGINE_WINOGRAD_FIRST
        ENGINE_WINOGRAD_PART("7f")
        "7:\n\t"
        ENGINE_WINOGRAD_FIXED
        ENGINE_WINOGRAD_SECOND
        "b.n 9f\n\t"
        "16:\n\t"
        ENGINE_WINOGRAD_SIGNED("61")
        ENGINE_WINOGRAD_FIRST
        ENGINE_WINOGRAD_PART("17f")
        "17:\n\t"
        ENGINE_WINOGRAD_SIGNED("71")
        ENGINE_WINOGRAD_SECOND

        "9:\n\t"
        "str r1, [sp, #48]\n\t"
        "ldr r2, [sp, #52]\n\t"
        "subs r2, r2, #1\n\t"
        "str r2, [sp, #52]\n\t"
        "bne.w 8b\n\t"
        "add sp, sp, #84\n\t"
        "pop {r4-r11, pc}\n\t");
}

/* r0 where m1 of a quad is written, r1 values, r2 from column to column, r3 from m1 to m2 and so on, r4-r9 two values of
   each column, r10-r12, lr zeros. */
#define ENGINE_WINOGRAD_HALF(ror)                                                                             \
    "add r12, r1, r2\n\t"                                                                                     \
    "ldr r4, [r1]\n\tldr r5, [r12]\n\tldr r6, [r1, r2, lsl #1]\n\t"                                           \
    "ldr r7, [r12, r2, lsl #1]\n\tldr r8, [r1, r2, lsl #2]\n\tldr r9, [r12, r2, lsl #2]\n\t"                  \
    "sxtab16 r4, lr, r4" ror "\n\tsxtab16 r5, lr, r5" ror "\n\tsxtab16 r6, lr, r6" ror "\n\t"                 \
    "sxtab16 r7, lr, r7" ror "\n\tsxtab16 r8, lr, r8" ror "\n\tsxtab16 r9, lr, r9" ror "\n\t"                 \
    "sadd16 r10, r5, r6\n\tsadd16 r11, r7, r8\n\tadd r12, r0, r3\n\tstrd r10, r11, [r0], #8\n\t"              \
    "ssub16 r10, r6, r5\n\tssub16 r11, r8, r7\n\tstrd r10, r11, [r12]\n\tadd r12, r12, r3\n\t"                \
    "ssub16 r10, r4, r6\n\tssub16 r11, r6, r8\n\tstrd r10, r11, [r12]\n\tadd r12, r12, r3\n\t"                \
    "ssub16 r10, r5, r7\n\tssub16 r11, r7, r9\n\tstrd r10, r11, [r12]\n\t"

/* Write a tile of six columns; `rows` has the channels' quads and the step from row to row. */
__attribute__((naked)) static void engine_winograd_unpack(
    engine_i16 *tile __attribute__((unused)), const int8_t *values __attribute__((unused)),
    const engine_rows_t *rows __attribute__((unused)), int32_t bytes __attribute__((unused)))
{
    __asm__(
        "push {r4-r11, lr}\n\t"
        "ldmia.w r2, {r4, r5, r6, lr}\n\t"
        "lsls r2, r5, #2\n\t"
        "subs r6, r6, r2\n\t"
        "push {r5, r6}\n\t" /* quads of a row, from the end of a row to the next one */
        "mov r6, r5\n\t"
        "push {r4, r6}\n\t" /* rows left, quads left */
        "1:\n\t"
        ENGINE_WINOGRAD_HALF("")
        ENGINE_WINOGRAD_HALF(", ror #8")
        "adds r1, r1, #4\n\t"
        "ldr r4, [sp, #4]\n\t"
        "subs r4, r4, #1\n\t"
        "str r4, [sp, #4]\n\t"
        "bne.w 1b\n\t"
        "ldm sp, {r4-r7}\n\t"
        "add r1, r1, r7\n\t"
        "subs r4, r4, #1\n\t"
        "mov r5, r6\n\t"
        "stm sp, {r4, r5}\n\t"
        "bne.w 1b\n\t"
        "add sp, sp, #16\n\t"
        "pop {r4-r11, pc}\n\t");
}

#else

static void engine_winograd_unpack(engine_i16 *tile, const int8_t *values, const engine_rows_t *rows, int32_t bytes)
{
    const int32_t part = bytes / 2, zero = (int16_t)(rows->zeros & 0xffffu), pitch = rows->quads * 4;
    for (int32_t row = 0; row < rows->rows; row++) {
        for (int32_t at = 0; at < pitch; at++) {
            engine_i16 *to = tile + at / 4 * 8 + (at & 1) * 4 + (at & 2) / 2;
            for (int32_t pair = 0; pair < 2; pair++) {
                const int8_t *from = values + pair * 2 * pitch + at;
                const int32_t d0 = from[0], d1 = from[pitch], d2 = from[2 * pitch], d3 = from[3 * pitch];
                to[0] = (int16_t)(d1 + d2 + 2 * zero);
                to[part] = (int16_t)(d2 - d1);
                to[2 * part] = (int16_t)(d0 - d2);
                to[3 * part] = (int16_t)(d1 - d3);
                to += 2;
            }
        }
        tile += pitch * 2;
        values += rows->step;
    }
}

/* One block over all tiles in plain C; returns where the next one begins. */
static const int32_t *engine_winograd_block(
    const engine_winograd_t *winograd, int32_t form, const int32_t *weights, int8_t *output)
{
    const engine_tiles_t limits = {0, 0, 0, 0, 0, 0, 0, 0, 0, winograd->offset, winograd->low, winograd->high};
    const int32_t part = winograd->bytes / 4, one = form == ENGINE_FIXED ? 2 : 3, quads = winograd->bytes / 16;
    const int32_t *rescale = weights + 4 + 3 * part;
    for (const engine_i16 *tile = winograd->tiles; tile != winograd->end; tile += 8 * part) {
        uint32_t sums[4][4];
        for (int32_t number = 0; number < 4; number++) {
            const int32_t *from = weights + 4 + number * part + (number == 3 ? 2 * one : 0);
            engine_tile_sums_int16(tile + number * 2 * part, (const engine_i16 *)from, quads, sums[number]);
        }
        for (int32_t at = 0; at < 4; at++) {
            const uint32_t bias = (uint32_t)weights[at] + sums[0][at];
            const uint32_t accs[2] = {bias + sums[1][at] + sums[2][at], bias - sums[1][at] + sums[3][at]};
            for (int32_t odd = 0; odd < 2; odd++) {
                output[(at >> 1) * winograd->pitch + odd * (winograd->pitch / 2) + (at & 1)] =
                    engine_tiles_output(&limits, form, (int32_t)accs[odd], rescale + (at & 1) * one);
            }
        }
        output += 2 * winograd->pitch;
    }
    return rescale + part + 4 * one;
}

#endif

/* All channels of some tiles. */
static void engine_winograd(const engine_winograd_t *winograd, int32_t form)
{
#if ENGINE_DSP
    engine_winograd_run(winograd, form != ENGINE_FIXED);
#else
    const int32_t *weights = winograd->weights;
    for (int32_t block = 0; block < winograd->blocks; block++) {
        weights = engine_winograd_block(winograd, form, weights, winograd->output + block * 2);
    }
#endif
}

/* One quad of one channel for m1, m2, m0 and m3, whose weights are `part` values apart, but m3's `last` from m1's. */
static void engine_winograd_quad(engine_i16 *to, int32_t part, int32_t last, const int8_t *weights, int32_t times)
{
    for (int32_t lane = 0; lane < 4; lane++) {
        engine_i16 *place = to + (lane & 1) * 4 + lane / 2;
        const int32_t outer = weights[lane] + weights[lane + 8];
        place[0] = (int16_t)((outer + weights[lane + 4]) * times);
        place[part] = (int16_t)((outer - weights[lane + 4]) * times);
        place[2 * part] = (int16_t)(2 * weights[lane] * times);
        place[last] = (int16_t)(-2 * weights[lane + 8] * times);
    }
}

/* Blocks of int16 from those of int8; returns where they end. */
static int32_t *engine_winograd_expand(const engine_conv_t *layer, int32_t *to)
{
    const int32_t part = layer->quads * 4, rescale = layer->form == ENGINE_FIXED ? 4 : 6;
    const int32_t *from = layer->weights;
    for (int32_t block = 0; block < layer->out_c / 2; block++) {
        const int32_t *behind = from + 5 + layer->quads * 6;
        const int8_t *weights = (const int8_t *)(from + 5);
        for (int32_t at = 0; at < layer->quads * 2; at++) {
            engine_i16 *quad = (engine_i16 *)(to + 4) + at / 2 * 8 + (at & 1) * 2;
            const int32_t times = 1 << (from[4] >> (at & 1) * 8 & 255);
            engine_winograd_quad(quad, 2 * part, 6 * part + 2 * rescale, weights + at * 12, times);
        }
        (void)memcpy(to, from, 16);
        (void)memcpy(to + 4 + 3 * part, behind, (size_t)rescale * 4u);
        (void)memcpy(to + 4 + 4 * part + rescale, behind, (size_t)rescale * 4u);
        to += 4 + 4 * part + 2 * rescale;
        from = behind + rescale;
    }
    return to;
}

void engine_conv_winograd(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t fixed = layer->form == ENGINE_FIXED, pitch = layer->in_w * layer->in_c, bytes = layer->quads * 16;
    const uint32_t zeros = (uint32_t)(uint16_t)-layer->in_zero * 0x10001u;
    const engine_rows_t rows = {layer->kernel_h, layer->in_c / 4, layer->dilation_h * pitch, zeros};
    const engine_rows_t gathered = {layer->kernel_h, layer->in_c / 4, 6 * layer->in_c, zeros};
    int32_t *place = (int32_t *)scratch, *behind = layer->wide ? place : engine_winograd_expand(layer, place);
    engine_i16 *tiles = (engine_i16 *)behind, *tile = tiles, *full = tiles + layer->pairs * layer->quads * 32;
    engine_conv_t window = *layer;
    engine_winograd_t winograd = {
        output,
        2 * layer->out_c,
        0,
        bytes,
        tiles,
        layer->wide ? layer->weights : place,
        layer->out_c / 2,
        fixed ? (uint8_t)layer->offset * 0x1010101u : layer->low > INT8_MIN || layer->high < INT8_MAX,
        (uint8_t)layer->low * 0x1010101u,
        (uint8_t)layer->high * 0x1010101u,
    };
    window.kernel_w = 6;
    window.row_quads = 6 * layer->in_c / 4;
    window.quads = layer->kernel_h * window.row_quads;
    for (int32_t row = 0; row < layer->out_h; row++) {
        const int32_t y = row * layer->stride_h - layer->pad_h, inside = engine_conv_inside(&window, y);
        for (int32_t x = -layer->pad_w; x + layer->pad_w < layer->out_w; x += 4) {
            if (x >= 0 && x < inside) {
                engine_winograd_unpack(tile, input + y * pitch + x * layer->in_c, &rows, bytes);
            } else {
                engine_conv_gather(&window, (int8_t *)full, input, y, x);
                engine_winograd_unpack(tile, (int8_t *)full, &gathered, bytes);
            }
            tile += layer->quads * 32;
            if (tile == full || (row + 1 == layer->out_h && x + layer->pad_w + 4 == layer->out_w)) {
                winograd.end = tile;
                engine_winograd(&winograd, layer->form);
                winograd.output += (tile - tiles) / (layer->quads * 32) * 4 * layer->out_c;
                tile = tiles;
            }
        }
    }
}
