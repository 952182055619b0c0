/* A group of planes, their weights and where the outputs go. The order of members is known to the assembly, whose copy
   on the stack begins with its own 56 bytes: the bias eight times, mantissa, addend, shift, then of a block its lines,
   its output and the step to the second output of a pair. Behind the copy: blocks left, where the pair's lines and its
   outputs are, pairs left, the original. */
typedef struct {
    int32_t lines[3]; /* 56: from a block's first line of outputs to the others, backwards where there are none */
    int32_t jump;     /* 68: bytes of a plane from behind the rows of a column to those of the next one */
    const int16_t *end;     /* 72: of the channel's weights */
    const int16_t *weights; /* 76 */
    int32_t weights_size;   /* 80: bytes of a channel's weights */
    int32_t block;          /* 84: bytes of a plane from block to block */
    int32_t block_output;   /* 88 */
    int32_t last_block;     /* 92: the same for the last block, which overlaps the one before */
    int32_t last_output;    /* 96 */
    int32_t out_place;      /* 100: from place to place of the output */
    int32_t last_place;     /* 104: the same in the last pair, 0 where it has one output only */
    int32_t pairs;          /* 108: of outputs */
    int32_t pair;           /* 112: bytes of a plane from pair to pair of outputs */
    int32_t blocks;         /* 116: of four lines of outputs */
    int32_t rows;           /* 120: then where their code begins */
    const engine_i16 *planes; /* 124 */
    int32_t size;             /* 128: bytes of a plane */
    const int32_t *bias;              /* 132 */
    const engine_channel_t *channels; /* 136 */
    int8_t *output;                   /* 140 */
    int32_t left;                     /* 144: planes */
    int32_t times;                    /* 148: output channels of a plane */
    int32_t out_lines; /* 152: of the band; then output channels of the plane left */
} engine_any_t;

#if ENGINE_DSP

/* A row of a column: r0 planes, r1 weights, r2 r3 weights of both outputs, r12 lr pairs of places in two lines, r4-r11
   sums of four lines. */
#define ENGINE_ANY_LINE(value, first, second)       \
    "smlad " first ", " value ", r2, " first "\n\t" \
    "smlad " second ", " value ", r3, " second "\n\t"

#define ENGINE_ANY_ROW                                                   \
    "ldrd r2, r3, [r1], #8\n\t"                                          \
    "ldrd r12, lr, [r0], #4\n\t"                                         \
    ENGINE_ANY_LINE("r12", "r4", "r5") ENGINE_ANY_LINE("lr", "r6", "r7") \
    "ldrd r12, lr, [r0, #4]\n\t"                                         \
    ENGINE_ANY_LINE("r12", "r8", "r9") ENGINE_ANY_LINE("lr", "r10", "r11")

#define ENGINE_ANY_EACH(first, second)                                          \
    first("r4") first("r5") first("r6") first("r7")                             \
    first("r8") first("r9") first("r10") first("r11") second("r4") second("r5") \
    second("r6") second("r7") second("r8") second("r9") second("r10") second("r11")

#define ENGINE_ANY_COMMON_1(sum) "smmla " sum ", " sum ", r2, r3\n\t"
#define ENGINE_ANY_COMMON_2(sum) "ssat " sum ", #8, " sum ", asr #10\n\t"
#define ENGINE_ANY(first, second)                                                      \
    "push {r4-r11, lr}\n\t"                                                            \
    "sub sp, sp, #176\n\t"                                                             \
    "str r0, [sp, #172]\n\t"                                                           \
    "add r12, sp, #56\n\t"                                                             \
    "ldmia r0!, {r1-r8}\n\t"                                                           \
    "stmia r12!, {r1-r8}\n\t"                                                          \
    "ldmia r0!, {r1-r8}\n\t"                                                           \
    "stmia r12!, {r1-r8}\n\t"                                                          \
    "ldmia r0!, {r1-r9}\n\t"                                                           \
    "stmia r12!, {r1-r9}\n\t"                                                          \
    "ldr r1, [sp, #120]\n\t"                                                           \
    "rsb r1, r1, #8\n\t"                                                               \
    "mov r2, #44\n\t"                                                                  \
    "mul r1, r1, r2\n\t"                                                               \
    "adr.w r2, 5f\n\t"                                                                 \
    "add r1, r1, r2\n\t"                                                               \
    "orr r1, r1, #1\n\t"                                                               \
    "str r1, [sp, #120]\n\t"                                                           \
    "1:\n\t" /* a plane */                                                             \
    "ldr r0, [sp, #148]\n\t"                                                           \
    "str r0, [sp, #152]\n\t"                                                           \
    "2:\n\t" /* an output channel */                                                   \
    "ldrd r0, r1, [sp, #132]\n\t"                                                      \
    "ldr r4, [r0], #4\n\t"                                                             \
    "ldmia r1!, {r2, r3, r12}\n\t"                                                     \
    "strd r0, r1, [sp, #132]\n\t"                                                      \
    "strd r2, r3, [sp, #32]\n\t"                                                       \
    "str r12, [sp, #40]\n\t"                                                           \
    "mov r5, r4\n\tmov r6, r4\n\tmov r7, r4\n\tmov r8, r4\n\tmov r9, r4\n\t"           \
    "mov r10, r4\n\tmov r11, r4\n\t"                                                   \
    "stmia sp, {r4-r11}\n\t"                                                           \
    "ldrd r0, r1, [sp, #76]\n\t"                                                       \
    "add r1, r1, r0\n\t"                                                               \
    "str r1, [sp, #72]\n\t"                                                            \
    "ldr r0, [sp, #124]\n\t"                                                           \
    "ldr r1, [sp, #140]\n\t"                                                           \
    "add r2, r1, #1\n\t"                                                               \
    "str r2, [sp, #140]\n\t"                                                           \
    "ldr r2, [sp, #108]\n\t"                                                           \
    "3:\n\t" /* a pair of outputs in all lines: r0 planes, r1 output, r2 pairs left */ \
    "strd r0, r1, [sp, #160]\n\t"                                                      \
    "strd r0, r1, [sp, #44]\n\t"                                                       \
    "str r2, [sp, #168]\n\t"                                                           \
    "ldrd r3, r12, [sp, #100]\n\t"                                                     \
    "cmp r2, #1\n\t"                                                                   \
    "it eq\n\tmoveq r3, r12\n\t"                                                       \
    "str r3, [sp, #52]\n\t"                                                            \
    "ldr r2, [sp, #116]\n\t"                                                           \
    "4:\n\t" /* four lines of it: r0 planes, r2 blocks left */                         \
    "str r2, [sp, #156]\n\t"                                                           \
    "ldmia sp, {r4-r11}\n\t"                                                           \
    "ldr r1, [sp, #76]\n\t"                                                            \
    "ldr pc, [sp, #120]\n\t"                                                           \
    "5:\n\t"                                                                           \
    ENGINE_ANY_ROW ENGINE_ANY_ROW ENGINE_ANY_ROW ENGINE_ANY_ROW                        \
    ENGINE_ANY_ROW ENGINE_ANY_ROW ENGINE_ANY_ROW ENGINE_ANY_ROW                        \
    "6:\n\t.if (6b - 5b) - 8 * 44\n\t.error \"size of a row\"\n\t.endif\n\t"           \
    "ldrd r2, r3, [sp, #68]\n\t"                                                       \
    "add r0, r0, r2\n\t"                                                               \
    "cmp r1, r3\n\t"                                                                   \
    "it ne\n\tldrne pc, [sp, #120]\n\t"                                                \
    "ldrd r2, r3, [sp, #32]\n\t"                                                       \
    "ldr lr, [sp, #40]\n\t"                                                            \
    ENGINE_ANY_EACH(first, second)                                                     \
    "ldrd r0, r1, [sp, #48]\n\t"                                                       \
    "ldrd r2, r3, [sp, #56]\n\t"                                                       \
    "ldr r12, [sp, #64]\n\t"                                                           \
    "add r12, r12, r0\n\t"                                                             \
    "add r3, r3, r0\n\t"                                                               \
    "add r2, r2, r0\n\t"                                                               \
    "strb r11, [r12, r1]\n\tstrb r10, [r12]\n\t"                                       \
    "strb r9, [r3, r1]\n\tstrb r8, [r3]\n\t"                                           \
    "strb r7, [r2, r1]\n\tstrb r6, [r2]\n\t"                                           \
    "strb r5, [r0, r1]\n\tstrb r4, [r0]\n\t"                                           \
    "ldr r2, [sp, #156]\n\t"                                                           \
    "subs r2, r2, #1\n\t"                                                              \
    "beq 7f\n\t"                                                                       \
    "cmp r2, #1\n\t"                                                                   \
    "ite eq\n\tldrdeq r3, r12, [sp, #92]\n\tldrdne r3, r12, [sp, #84]\n\t"             \
    "add r1, r0, r12\n\t"                                                              \
    "ldr r0, [sp, #44]\n\t"                                                            \
    "add r0, r0, r3\n\t"                                                               \
    "strd r0, r1, [sp, #44]\n\t"                                                       \
    "b 4b\n\t"                                                                         \
    "7:\n\t"                                                                           \
    "ldrd r0, r1, [sp, #160]\n\t"                                                      \
    "ldr r3, [sp, #112]\n\t"                                                           \
    "ldr r12, [sp, #100]\n\t"                                                          \
    "ldr r2, [sp, #168]\n\t"                                                           \
    "add r0, r0, r3\n\t"                                                               \
    "add r1, r1, r12, lsl #1\n\t"                                                      \
    "subs r2, r2, #1\n\t"                                                              \
    "bne 3b\n\t"                                                                       \
    "ldr r0, [sp, #72]\n\t"                                                            \
    "str r0, [sp, #76]\n\t"                                                            \
    "ldr r0, [sp, #152]\n\t"                                                           \
    "subs r0, r0, #1\n\t"                                                              \
    "str r0, [sp, #152]\n\t"                                                           \
    "bne 2b\n\t"                                                                       \
    "ldrd r0, r1, [sp, #124]\n\t"                                                      \
    "add r0, r0, r1\n\t"                                                               \
    "str r0, [sp, #124]\n\t"                                                           \
    "ldr r0, [sp, #144]\n\t"                                                           \
    "subs r0, r0, #1\n\t"                                                              \
    "str r0, [sp, #144]\n\t"                                                           \
    "bne 1b\n\t"                                                                       \
    "ldr r0, [sp, #172]\n\t" /* where the next channels are */                         \
    "ldr r1, [sp, #76]\n\t"                                                            \
    "str r1, [r0, #20]\n\t"                                                            \
    "ldrd r1, r2, [sp, #132]\n\t"                                                      \
    "strd r1, r2, [r0, #76]\n\t"                                                       \
    "ldr r1, [sp, #140]\n\t"                                                           \
    "str r1, [r0, #84]\n\t"                                                            \
    "add sp, sp, #176\n\t"                                                             \
    "pop {r4-r11, pc}\n\t"

__attribute__((naked)) static void engine_any_common(engine_any_t *any __attribute__((unused)))
{
    __asm__(ENGINE_ANY(ENGINE_ANY_COMMON_1, ENGINE_ANY_COMMON_2));
}

/* Moves bias, channels, weights and output on behind the channels that were done. */
static void engine_any(const engine_planes_any_t *layer, engine_any_t *any)
{
    (void)layer;
    engine_any_common(any);
}

#else

static int32_t engine_any_sum(
    const engine_planes_any_t *layer, const engine_i16 *plane, const int16_t *weights, int32_t bias)
{
    int32_t sum = bias;
    for (int32_t column = 0; column < layer->columns; column++) {
        for (int32_t row = 0; row < layer->rows; row++) {
            sum = engine_add(sum, plane[0] * weights[0] + plane[1] * weights[1]);
            plane += 2;
            weights += 4;
        }
        plane += 2 * (layer->image.lines - layer->rows);
    }
    return sum;
}

static void engine_any_channel(const engine_planes_any_t *layer, const engine_any_t *any)
{
    for (int32_t place = 0; place < layer->out_places; place++) {
        const engine_i16 *plane = any->planes + place / 2 * (any->pair / 2);
        int8_t *output = any->output + place * any->out_place;
        for (int32_t line = 0; line < any->out_lines; line++) {
            const int32_t sum = engine_any_sum(layer, plane + 2 * line, any->weights + 2 * (place & 1), *any->bias);
            *output = engine_plane_rescale(any->channels, sum, layer->common);
            output += layer->out_line;
        }
    }
}

static void engine_any(const engine_planes_any_t *layer, engine_any_t *any)
{
    const engine_i16 *planes = any->planes;
    for (int32_t channel = 0; channel < any->left; channel++) {
        for (int32_t time = 0; time < any->times; time++) {
            engine_any_channel(layer, any);
            any->bias++;
            any->channels++;
            any->weights += any->weights_size / 2;
            any->output++;
        }
        any->planes += any->size / 2;
    }
    any->planes = planes;
}

#endif

static engine_any_t engine_any_start(
    const engine_planes_any_t *layer, int32_t lines, int8_t *output, const engine_i16 *planes)
{
    const int32_t line = layer->out_line, rest = (lines + 3) % 4 + 1;
    const int32_t column = layer->image.lines * 4, pair = column * layer->image.phases;
    const engine_any_t any = {
        {lines > 1 ? line : 0, lines > 2 ? 2 * line : lines > 1 ? line : 0, (lines < 4 ? lines - 1 : 3) * line},
        column - layer->rows * 4,
        0,
        layer->weights,
        layer->columns * layer->rows * 8,
        16,
        4 * line,
        rest * 4,
        rest * line,
        layer->out_place,
        layer->out_places & 1 ? 0 : layer->out_place,
        (layer->out_places + 1) / 2,
        pair * layer->place_stride,
        (lines + 3) / 4,
        layer->rows,
        planes,
        layer->image.pairs * pair,
        layer->bias,
        layer->channels,
        output,
        0,
        layer->times,
        lines,
    };
    return any;
}

/* The part of the image, from line `first` of the padded one on, that a band of outputs reads; moves the input there. */
static engine_plane_image_t engine_any_part(const engine_planes_any_t *layer, int32_t first, const int8_t **input)
{
    engine_plane_image_t image = layer->image;
    const int32_t skipped = first > image.line_pad ? first - image.line_pad : 0;
    image.line_pad = first > image.line_pad ? 0 : image.line_pad - first;
    image.in_lines -= skipped;
    *input += skipped * image.in_line;
    return image;
}

static void engine_any_band(
    void (*function)(const engine_planes_any_t *layer, engine_any_t *any),
    const engine_planes_any_t *layer, const int8_t *input, int8_t *output, engine_i16 *planes, int32_t line)
{
    const int32_t depth = layer->image.depth, left = layer->out_lines - line;
    const engine_plane_image_t image = engine_any_part(layer, line * layer->image.phases, &input);
    engine_any_t any = engine_any_start(
        layer, left < layer->band ? left : layer->band, output + line * layer->out_line, planes);
    (void)memset(planes, 0, (size_t)(any.size * layer->group));
    for (int32_t channel = 0; channel < depth; channel += any.left) {
        any.left = depth - channel < layer->group ? depth - channel : layer->group;
        engine_plane_fill(&image, planes, input + channel, any.left);
        function(layer, &any);
    }
}

static void engine_planes_any_by(
    void (*function)(const engine_planes_any_t *layer, engine_any_t *any),
    const engine_planes_any_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    for (int32_t line = 0; line < layer->out_lines; line += layer->band) {
        engine_any_band(function, layer, input, output, (engine_i16 *)scratch, line);
    }
    if (layer->low > INT8_MIN || layer->high < INT8_MAX) {
        engine_clamp_all(
            output, layer->image.depth * layer->times * layer->out_lines * layer->out_places, layer->low, layer->high);
    }
}

void engine_planes_any(const engine_planes_any_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_planes_any_by(engine_any, layer, input, output, scratch);
}
