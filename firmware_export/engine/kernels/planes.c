/* Four channels: planes, weights and where the outputs go. The order of members is known to the assembly, whose copy on
   the stack begins with its own 40 bytes: plane, bias, mantissa, addend, shift, output, step to the next place, lines
   left, end of the pairs, output of the line. */
typedef struct {
    const engine_i16 *planes; /* 40 */
    const int16_t *weights;   /* 44 */
    const int32_t *bias;      /* 48 */
    const engine_channel_t *channels; /* 52 */
    int8_t *output;           /* 56 */
    int32_t pitch;            /* 60: bytes from row to row of a plane */
    int32_t row_step;         /* 64: bytes of a plane from output row to output row */
    int32_t size;             /* 68: bytes of a plane */
    int32_t stride;           /* 72: from pixel to pixel of the output */
    int32_t span;             /* 76: bytes of a plane's row behind which all pairs of outputs are done */
    int32_t odd;              /* 80: 1: one output is left then */
    int32_t rows;             /* 84: of the output */
    int32_t low, high;        /* 88, 92 */
    int32_t left;             /* 96: channels, 4 */
    int32_t out_line;         /* 100: from line to line of the output */
} engine_plane_t;

#if ENGINE_DSP

/* Two neighbouring outputs at a time: r0 r1 r12 rows of the plane, r4-r9 weights, r10 r11 sums. */
#define ENGINE_PLANE_ROW_1(row, first, second) \
    "ldrd r2, r3, [" row "], #4\n\t"           \
    "smlad r10, r2, " first ", r10\n\t"        \
    "smlabt r10, r3, " second ", r10\n\t"      \
    "smlatb r11, r2, " first ", r11\n\t"       \
    "smlad r11, r3, " second ", r11\n\t"

#define ENGINE_PLANE_ROW_2(row, first, second) \
    "ldrd r2, r3, [" row "], #8\n\t"           \
    "smlad r10, r2, " first ", r10\n\t"        \
    "smlabt r10, r3, " second ", r10\n\t"      \
    "ldr r2, [" row "]\n\t"                    \
    "smlad r11, r3, " first ", r11\n\t"        \
    "smlabt r11, r2, " second ", r11\n\t"

#define ENGINE_PLANE_FLOOR                      \
    "ldr r2, [sp, #88]\n\t"                     \
    "cmp r10, r2\n\tit lt\n\tmovlt r10, r2\n\t" \
    "cmp r11, r2\n\tit lt\n\tmovlt r11, r2\n\t"

#define ENGINE_PLANE_CLAMP                      \
    ENGINE_PLANE_FLOOR                          \
    "ldr r2, [sp, #92]\n\t"                     \
    "cmp r10, r2\n\tit gt\n\tmovgt r10, r2\n\t" \
    "cmp r11, r2\n\tit gt\n\tmovgt r11, r2\n\t"

#define ENGINE_PLANE(row, step, clamp)                                              \
    "push {r4-r11, lr}\n\t"                                                         \
    "sub sp, sp, #104\n\t"                                                          \
    "add r12, sp, #40\n\t"                                                          \
    "ldmia r0!, {r1-r8}\n\t"                                                        \
    "stmia r12!, {r1-r8}\n\t"                                                       \
    "ldmia r0!, {r1-r8}\n\t"                                                        \
    "stmia r12!, {r1-r8}\n\t"                                                       \
    "1:\n\t" /* a channel */                                                        \
    "ldr r0, [sp, #44]\n\t"                                                         \
    "ldmia r0!, {r4-r9}\n\t"                                                        \
    "str r0, [sp, #44]\n\t"                                                         \
    "ldrd r0, r1, [sp, #48]\n\t"                                                    \
    "ldr r2, [r0], #4\n\t"                                                          \
    "ldmia r1!, {r3, r10, r11}\n\t"                                                 \
    "strd r0, r1, [sp, #48]\n\t"                                                    \
    "strd r2, r3, [sp, #4]\n\t"                                                     \
    "strd r10, r11, [sp, #12]\n\t"                                                  \
    "ldr r0, [sp, #40]\n\t"                                                         \
    "ldr r1, [sp, #68]\n\t"                                                         \
    "str r0, [sp]\n\t"                                                              \
    "add r0, r0, r1\n\t"                                                            \
    "str r0, [sp, #40]\n\t"                                                         \
    "ldr r0, [sp, #56]\n\t"                                                         \
    "str r0, [sp, #36]\n\t"                                                         \
    "add r0, r0, #1\n\t"                                                            \
    "str r0, [sp, #56]\n\t"                                                         \
    "ldr r0, [sp, #84]\n\t"                                                         \
    "str r0, [sp, #28]\n\t"                                                         \
    "2:\n\t" /* a row of outputs */                                                 \
    "ldr r2, [sp, #36]\n\t"                                                         \
    "ldr r3, [sp, #100]\n\t"                                                        \
    "str r2, [sp, #20]\n\t"                                                         \
    "add r2, r2, r3\n\t"                                                            \
    "str r2, [sp, #36]\n\t"                                                         \
    "ldr r0, [sp]\n\t"                                                              \
    "ldrd r2, r3, [sp, #60]\n\t"                                                    \
    "add r1, r0, r2\n\t"                                                            \
    "add r12, r1, r2\n\t"                                                           \
    "add r3, r0, r3\n\t"                                                            \
    "str r3, [sp]\n\t"                                                              \
    "ldrd r2, r3, [sp, #72]\n\t"                                                    \
    "add lr, r0, r3\n\t"                                                            \
    "str r2, [sp, #24]\n\t"                                                         \
    "str lr, [sp, #32]\n\t"                                                         \
    "b 4f\n\t"                                                                      \
    "3:\n\t" /* two outputs */                                                      \
    "ldr r10, [sp, #4]\n\t"                                                         \
    "mov r11, r10\n\t"                                                              \
    row("r0", "r4", "r5") row("r1", "r6", "r7") row("r12", "r8", "r9")              \
    "ldrd r2, r3, [sp, #8]\n\t"                                                     \
    "add lr, r3, r10, asr #31\n\t"                                                  \
    "add r3, r3, r11, asr #31\n\t"                                                  \
    "smmlar r10, r10, r2, lr\n\t"                                                   \
    "smmlar r11, r11, r2, r3\n\t"                                                   \
    "ldrd r2, r3, [sp, #16]\n\t"                                                    \
    "ldr lr, [sp, #24]\n\t"                                                         \
    "asr r10, r10, r2\n\t"                                                          \
    "asr r11, r11, r2\n\t"                                                          \
    "ssat r10, #8, r10\n\t"                                                         \
    "ssat r11, #8, r11\n\t" clamp                                                   \
    "strb r11, [r3, lr]\n\t"                                                        \
    "strb r10, [r3]\n\t"                                                            \
    "add r3, r3, lr, lsl #1\n\t"                                                    \
    "str r3, [sp, #20]\n\t"                                                         \
    "ldr lr, [sp, #32]\n\t"                                                         \
    "4:\n\t"                                                                        \
    "cmp r0, lr\n\t"                                                                \
    "bne 3b\n\t"                                                                    \
    "ldr r2, [sp, #80]\n\t"                                                         \
    "cbz r2, 6f\n\t"                                                                \
    "ldr r3, [sp, #24]\n\t" /* the last, alone: both stores go to the same place */ \
    "cbz r3, 6f\n\t"                                                                \
    "mov r3, #0\n\t"                                                                \
    "str r3, [sp, #24]\n\t"                                                         \
    "add lr, lr, #" step "\n\t"                                                     \
    "str lr, [sp, #32]\n\t"                                                         \
    "b 3b\n\t"                                                                      \
    "6:\n\t"                                                                        \
    "ldr r2, [sp, #28]\n\t"                                                         \
    "subs r2, r2, #1\n\t"                                                           \
    "str r2, [sp, #28]\n\t"                                                         \
    "bne 2b\n\t"                                                                    \
    "ldr r2, [sp, #96]\n\t"                                                         \
    "subs r2, r2, #1\n\t"                                                           \
    "str r2, [sp, #96]\n\t"                                                         \
    "bne 1b\n\t"                                                                    \
    "add sp, sp, #104\n\t"                                                          \
    "pop {r4-r11, pc}\n\t"

#define ENGINE_PLANE_FUNCTION(name, row, step, clamp)                                             \
    __attribute__((naked)) static void name(const engine_plane_t *planes __attribute__((unused))) \
    {                                                                                             \
        __asm__(ENGINE_PLANE(row, step, clamp));                                                  \
    }

ENGINE_PLANE_FUNCTION(engine_plane_1, ENGINE_PLANE_ROW_1, "4", "")
ENGINE_PLANE_FUNCTION(engine_plane_1_floor, ENGINE_PLANE_ROW_1, "4", ENGINE_PLANE_FLOOR)
ENGINE_PLANE_FUNCTION(engine_plane_1_clamp, ENGINE_PLANE_ROW_1, "4", ENGINE_PLANE_CLAMP)
ENGINE_PLANE_FUNCTION(engine_plane_2, ENGINE_PLANE_ROW_2, "8", "")
ENGINE_PLANE_FUNCTION(engine_plane_2_floor, ENGINE_PLANE_ROW_2, "8", ENGINE_PLANE_FLOOR)
ENGINE_PLANE_FUNCTION(engine_plane_2_clamp, ENGINE_PLANE_ROW_2, "8", ENGINE_PLANE_CLAMP)

/* By the stride of places, then by what the saturation to int8 leaves to do. */
static void engine_plane(const engine_planes_t *layer, const engine_plane_t *planes)
{
    static void (*const functions[2][3])(const engine_plane_t *) = {
        {engine_plane_1, engine_plane_1_floor, engine_plane_1_clamp},
        {engine_plane_2, engine_plane_2_floor, engine_plane_2_clamp},
    };
    const int32_t limits = layer->high < INT8_MAX ? 2 : layer->low > INT8_MIN ? 1 : 0;
    functions[layer->place_stride - 1][limits](planes);
}

/* Two pixels of four channels into the planes; `size` is a plane's. */
static void engine_planes_pixels(engine_i16 *plane, int32_t size, uint32_t first, uint32_t second, uint32_t zeros)
{
    const uint32_t even[2] = {engine_sxtab16(zeros, first), engine_sxtab16(zeros, second)};
    const uint32_t odd[2] = {engine_sxtab16_odd(zeros, first), engine_sxtab16_odd(zeros, second)};
    const uint32_t pairs[4] = {
        engine_pkhbt(even[0], even[1]), engine_pkhbt(odd[0], odd[1]),
        engine_pkhtb(even[1], even[0]), engine_pkhtb(odd[1], odd[0]),
    };
    (void)memcpy(plane, &pairs[0], 4);
    (void)memcpy(plane + size, &pairs[1], 4);
    (void)memcpy(plane + 2 * size, &pairs[2], 4);
    (void)memcpy(plane + 3 * size, &pairs[3], 4);
}

#else

/* One output, before rescaling. */
static int32_t engine_plane_sum(const engine_i16 *at, int32_t pitch, const int16_t *weights, int32_t bias)
{
    int32_t acc = bias;
    for (int32_t row = 0; row < 3; row++) {
        acc = engine_add(acc, at[0] * weights[0] + at[1] * weights[1] + at[2] * weights[3]);
        at += pitch;
        weights += 4;
    }
    return acc;
}

static void engine_plane(const engine_planes_t *layer, const engine_plane_t *planes)
{
    for (int32_t channel = 0; channel < planes->left; channel++) {
        const engine_i16 *line = planes->planes + channel * (planes->size / 2);
        for (int32_t y = 0; y < planes->rows; y++) {
            int8_t *output = planes->output + channel + y * planes->out_line;
            for (int32_t x = 0; x < layer->out_places; x++) {
                const int32_t sum = engine_plane_sum(
                    line + x * layer->place_stride, layer->pitch, planes->weights + channel * 12, planes->bias[channel]);
                const int32_t value = engine_rescale(sum, planes->channels + channel, layer->form);
                *output = (int8_t)engine_clamp(value, layer->low, layer->high);
                output += planes->stride;
            }
            line += planes->row_step / 2;
        }
    }
}

#endif

/* One line of four channels into the planes. */
static void engine_planes_line(const engine_planes_t *layer, engine_i16 *plane, const int8_t *input, int32_t count)
{
    const int32_t size = layer->lines * layer->pitch, step = layer->in_place;
    const int8_t *end = input + count * step;
#if ENGINE_DSP
    const uint32_t zeros = (uint32_t)(uint16_t)-layer->in_zero * 0x10001u;
    const int8_t *pairs = end - (count & 1) * step;
    while (input != pairs) {
        engine_planes_pixels(plane, size, engine_load(input), engine_load(input + step), zeros);
        input += 2 * step;
        plane += 2;
    }
#endif
    while (input != end) {
        for (int32_t channel = 0; channel < 4; channel++) {
            plane[channel * size] = (int16_t)(input[channel] - layer->in_zero);
        }
        input += step;
        plane++;
    }
}

static void engine_planes_fill(const engine_planes_t *layer, engine_i16 *planes, const int8_t *input)
{
    const int32_t places = layer->pitch - layer->place_pad, lines = layer->lines - layer->line_pad;
    const int32_t width = layer->in_places < places ? layer->in_places : places;
    const int32_t height = layer->in_lines < lines ? layer->in_lines : lines;
    planes += layer->line_pad * layer->pitch + layer->place_pad;
    for (int32_t y = 0; y < height; y++) {
        engine_planes_line(layer, planes, input, width);
        planes += layer->pitch;
        input += layer->in_line;
    }
}

void engine_planes(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_i16 *planes = (engine_i16 *)scratch;
    const int32_t size = layer->lines * layer->pitch;
    (void)memset(scratch, 0, (size_t)size * 8);
    for (int32_t channel = 0; channel < layer->depth; channel += 4) {
        const engine_plane_t four = {
            planes,
            layer->weights + channel * 12,
            layer->bias + channel,
            layer->channels + channel,
            output + channel,
            layer->pitch * 2,
            layer->pitch * 2 * layer->line_stride,
            size * 2,
            layer->out_place,
            layer->out_places / 2 * 4 * layer->place_stride,
            layer->out_places & 1,
            layer->out_lines,
            layer->low,
            layer->high,
            4,
            layer->out_line,
        };
        engine_planes_fill(layer, planes, input + channel);
        engine_plane(layer, &four);
    }
}
