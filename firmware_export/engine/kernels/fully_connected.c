/* One row and blocks of four channels. The order of members is known to the assembly. */
typedef struct {
    const engine_i16 *row;
    const int32_t *weights;
    int8_t *output;
    int32_t blocks; /* at least 1 */
    int32_t bytes;  /* of the weights in a block */
    uint32_t offset; /* ENGINE_FIXED: four times the same byte */
    uint32_t low;   /* fused activation, four times the same byte */
    uint32_t high;
} engine_row_t;

#if ENGINE_DSP

/* r0 row, r1 weights, r4-r7 sums, r8-r11 a word of each channel, r2 r3 r12 lr eight values of the row. */
#define ENGINE_ROW_WORDS(values)                                                 \
    "ldmia.w r1!, {r8-r11}\n\t"                                                  \
    "smlad r4, " values ", r8, r4\n\tsmlad r5, " values ", r9, r5\n\t"           \
    "smlad r6, " values ", r10, r6\n\tsmlad r7, " values ", r11, r7\n\t"

#define ENGINE_ROW_INT16                                                         \
    "ldmia.w r0!, {r2, r3, r12, lr}\n\t"                                         \
    ENGINE_ROW_WORDS("r2") ENGINE_ROW_WORDS("r3") ENGINE_ROW_WORDS("r12") ENGINE_ROW_WORDS("lr")

#define ENGINE_ROW_BYTES(odd, even)                                              \
    ENGINE_ROW_WORDS(odd)                                                        \
    "sxtb16 r8, r8\n\tsxtb16 r9, r9\n\tsxtb16 r10, r10\n\tsxtb16 r11, r11\n\t"   \
    "smlad r4, " even ", r8, r4\n\tsmlad r5, " even ", r9, r5\n\t"               \
    "smlad r6, " even ", r10, r6\n\tsmlad r7, " even ", r11, r7\n\t"

#define ENGINE_ROW_INT8                                                          \
    "ldmia.w r0!, {r2, r3, r12, lr}\n\t"                                         \
    ENGINE_ROW_BYTES("r2", "r3") ENGINE_ROW_BYTES("r12", "lr")

/* One channel by the SIGNED form; `twice` makes twice the sum. */
#define ENGINE_ROW_SIGNED(a, twice)               \
    "ldmia.w r1!, {r2, r3, r8}\n\t" twice         \
    "add r3, r3, " a ", asr #31\n\t"              \
    "smmlar " a ", " a ", r2, r3\n\t"             \
    "asr " a ", " a ", r8\n\t"                    \
    "ssat " a ", #8, " a "\n\t"

#define ENGINE_ROW_JOIN "bfi r4, r5, #8, #8\n\tbfi r4, r6, #16, #8\n\tbfi r4, r7, #24, #8\n\t"

/* Stack: 0 end of the block's weights, 4 where they begin in the code, 8 where the code goes on behind them; from 12 on
   engine_row_t without weights. */
#define ENGINE_ROW(eight, eight_bytes, weights_shift, twice)                                 \
    "push {r4-r11, lr}\n\t"                                                                  \
    "ldmia.w r0, {r2-r9}\n\t"                                                                \
    "push {r2, r4-r9}\n\t"                                                                   \
    "sub sp, sp, #12\n\t"                                                                    \
    "adr.w r2, 4f\n\t"                                                                       \
    "cbz r1, 10f\n\t"                                                                        \
    "adr.w r2, 5f\n\t"                                                                       \
    "10:\n\t"                                                                                \
    "orr r2, r2, #1\n\t"                                                                     \
    "str r2, [sp, #8]\n\t"                                                                   \
    "rsb r2, r6, #0\n\t" /* the first of some eights that are no multiple of four */         \
    "ubfx r2, r2, #" weights_shift ", #2\n\t"                                                \
    "mov r4, #" eight_bytes "\n\t"                                                           \
    "adr.w r5, 2f\n\t"                                                                       \
    "mla r2, r2, r4, r5\n\t"                                                                 \
    "orr r2, r2, #1\n\t"                                                                     \
    "str r2, [sp, #4]\n\t"                                                                   \
    "mov r1, r3\n\t"                                                                         \
    "1:\n\t"                                                                                 \
    "ldmia r1!, {r4-r7}\n\t"                                                                 \
    "ldr r2, [sp, #24]\n\t"                                                                  \
    "add r2, r2, r1\n\t"                                                                     \
    "str r2, [sp, #0]\n\t"                                                                   \
    "ldr r0, [sp, #12]\n\t"                                                                  \
    "ldr pc, [sp, #4]\n\t"                                                                   \
    "2:\n\t" eight eight eight eight                                                         \
    ".if (. - 2b) - 4 * " eight_bytes "\n\t.error \"size of eight values\"\n\t.endif\n\t"    \
    "ldr r8, [sp, #0]\n\t"                                                                   \
    "cmp r1, r8\n\t"                                                                         \
    "bne.w 2b\n\t"                                                                           \
    "ldr pc, [sp, #8]\n\t"                                                                   \
    "4:\n\t" /* FIXED */                                                                     \
    "ldmia.w r1!, {r2, r3, r8-r12, lr}\n\t"                                                  \
    "smmla r4, r4, r2, r3\n\tsmmla r5, r5, r8, r9\n\t"                                       \
    "smmla r6, r6, r10, r11\n\tsmmla r7, r7, r12, lr\n\t"                                    \
    "ssat r4, #8, r4, asr #12\n\tssat r5, #8, r5, asr #12\n\t"                               \
    "ssat r6, #8, r6, asr #12\n\tssat r7, #8, r7, asr #12\n\t" ENGINE_ROW_JOIN               \
    "ldr r2, [sp, #28]\n\t"                                                                  \
    "qadd8 r4, r4, r2\n\t"                                                                   \
    "b.n 6f\n\t"                                                                             \
    "5:\n\t" /* SIGNED */                                                                    \
    ENGINE_ROW_SIGNED("r4", twice("r4")) ENGINE_ROW_SIGNED("r5", twice("r5"))                \
    ENGINE_ROW_SIGNED("r6", twice("r6")) ENGINE_ROW_SIGNED("r7", twice("r7")) ENGINE_ROW_JOIN \
    "ldrd r2, r3, [sp, #32]\n\t"                                                             \
    "ssub8 r8, r4, r2\n\tsel r4, r4, r2\n\tssub8 r8, r3, r4\n\tsel r4, r4, r3\n\t"           \
    "6:\n\t"                                                                                 \
    "ldrd r2, r3, [sp, #16]\n\t"                                                             \
    "str r4, [r2], #4\n\t"                                                                   \
    "subs r3, r3, #1\n\t"                                                                    \
    "strd r2, r3, [sp, #16]\n\t"                                                             \
    "bne.w 1b\n\t"                                                                           \
    "add sp, sp, #40\n\t"                                                                    \
    "pop {r4-r11, pc}\n\t"

#define ENGINE_ROW_AS_IS(a) ""
#define ENGINE_ROW_HALVED(a) "asr " a ", " a ", #7\n\t"

__attribute__((naked)) static void engine_row_int16(
    const engine_row_t *row __attribute__((unused)), int32_t is_signed __attribute__((unused)))
{
    __asm__(ENGINE_ROW(ENGINE_ROW_INT16, "84", "6", ENGINE_ROW_AS_IS));
}

__attribute__((naked)) static void engine_row_int8(
    const engine_row_t *row __attribute__((unused)), int32_t is_signed __attribute__((unused)))
{
    __asm__(ENGINE_ROW(ENGINE_ROW_INT8, "108", "5", ENGINE_ROW_HALVED));
}

#endif

/* Four values as int16: k0, k2, k1, k3; or for int8 weights -u of k1, k3, and 256 * k0 + u, 256 * k2 + u. */
static void engine_row_quad(engine_i16 *row, int32_t k0, int32_t k1, int32_t k2, int32_t k3, int32_t wide)
{
    row[0] = (int16_t)(wide ? k0 : k1 - 127);
    row[1] = (int16_t)(wide ? k2 : k3 - 127);
    row[2] = (int16_t)(wide ? k1 : 256 * k0 + 127 - k1);
    row[3] = (int16_t)(wide ? k3 : 256 * k2 + 127 - k3);
}

/* Values of a row; those of int8 weights keep their zero point. */
static void engine_row_unpack(const engine_fully_connected_t *layer, engine_i16 *row, const int8_t *values)
{
    const int32_t zero = layer->wide ? layer->in_zero : 0, depth = layer->depth;
    int32_t at = 0;
#if ENGINE_DSP
    for (const uint32_t zeros = (uint32_t)(uint16_t)-zero * 0x10001u; at + 4 <= depth; at += 4) {
        if (layer->wide) {
            engine_unpack_quad(row, row + 2, values + at, zeros, 0);
        } else {
            uint32_t word = engine_load(values + at) ^ 0x7f007f00u, odd;
            __asm__("uxtb16 %0, %1, ror #8" : "=r"(odd) : "r"(word));
            __asm__("ssub16 %0, %1, %2" : "=r"(odd) : "r"(0), "r"(odd));
            __asm__("rev16 %0, %1" : "=r"(word) : "r"(word));
            (void)memcpy(row, &odd, sizeof odd);
            (void)memcpy(row + 2, &word, sizeof word);
        }
        row += 4;
    }
#else
    for (; at + 4 <= depth; at += 4) {
        const int8_t *from = values + at;
        engine_row_quad(row, from[0] - zero, from[1] - zero, from[2] - zero, from[3] - zero, layer->wide);
        row += 4;
    }
#endif
    for (; at < depth || (at & 7) != 0; at += 4) {
        int32_t last[4] = {0, 0, 0, 0};
        for (int32_t lane = 0; at + lane < depth && lane < 4; lane++) {
            last[lane] = values[at + lane] - zero;
        }
        engine_row_quad(row, last[0], last[1], last[2], last[3], layer->wide);
        row += 4;
    }
}

/* Products of a row and one channel of a block, in plain C. */
static uint32_t engine_row_sum(const engine_row_t *row, const int32_t *weights, int32_t wide, int32_t channel)
{
    const engine_i16 *values = row->row, *from = (const engine_i16 *)weights + channel * 2;
    const engine_i16 *end = from + row->bytes / 2;
    uint32_t sum = 0;
    for (; from != end; from += 8) {
        sum += (uint32_t)(values[0] * from[0]) + (uint32_t)(values[1] * from[1]);
        if (!wide) {
            sum += (uint32_t)(values[2] * (int8_t)(from[0] & 255)) + (uint32_t)(values[3] * (int8_t)(from[1] & 255));
        }
        values += wide ? 2 : 4;
    }
    return sum;
}

static void engine_row_plain(const engine_row_t *row, int32_t wide, int32_t form)
{
    const engine_tiles_t limits = {0, 0, 0, 0, 0, 0, 0, 0, 0, row->offset, row->low, row->high};
    const int32_t *weights = row->weights;
    const int32_t one = form == ENGINE_FIXED ? 2 : 3, words = row->bytes / 4;
    for (int32_t block = 0; block < row->blocks; block++) {
        for (int32_t channel = 0; channel < 4; channel++) {
            const uint32_t sum = engine_row_sum(row, weights + 4, wide, channel) + (uint32_t)weights[channel];
            const int32_t acc = wide || form == ENGINE_FIXED ? (int32_t)sum : (int32_t)sum >> 7;
            row->output[block * 4 + channel] =
                engine_tiles_output(&limits, form, acc, weights + 4 + words + channel * one);
        }
        weights += 4 + words + 4 * one;
    }
}

static void engine_row_blocks(const engine_row_t *row, int32_t wide, int32_t form)
{
#if ENGINE_DSP
    if (form != ENGINE_LONG) {
        (wide ? engine_row_int16 : engine_row_int8)(row, form != ENGINE_FIXED);
        return;
    }
#endif
    engine_row_plain(row, wide, form);
}

/* All channels of one row; the last block may have fewer than four. */
static void engine_row_channels(const engine_fully_connected_t *layer, engine_row_t row)
{
    const int32_t words = 4 + row.bytes / 4 + (layer->form == ENGINE_FIXED ? 8 : 12);
    const int32_t done = row.blocks * 4, left = layer->out_c - done;
    int8_t last[4];
    if (done) {
        engine_row_blocks(&row, layer->wide, layer->form);
    }
    if (left) {
        int8_t *output = row.output + done;
        row.weights += row.blocks * words;
        row.output = last;
        row.blocks = 1;
        engine_row_blocks(&row, layer->wide, layer->form);
        (void)memcpy(output, last, (size_t)left);
    }
}

void engine_fully_connected(const engine_fully_connected_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_row_t row = {
        (engine_i16 *)scratch,
        layer->weights,
        output,
        layer->out_c / 4,
        (layer->depth + 7) / 8 * (layer->wide ? 64 : 32),
        (uint8_t)layer->offset * 0x1010101u,
        (uint8_t)layer->low * 0x1010101u,
        (uint8_t)layer->high * 0x1010101u,
    };
    for (int32_t number = 0; number < layer->rows; number++) {
        engine_row_unpack(layer, (engine_i16 *)scratch, input + number * layer->depth);
        engine_row_channels(layer, row);
        row.output += layer->out_c;
    }
}
