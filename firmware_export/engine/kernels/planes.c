/* A few channels: planes, weights and where the outputs go. The order of members is known to the assembly, whose copy
   on the stack begins with its own 32 bytes: bias, mantissa, addend, shift, pairs left, output of the pair, step to the
   pair's second output, end of the lines. */
typedef struct {
    int32_t out_line;    /* 32: from line to line of the output */
    int32_t next_pair;   /* 36: bytes of a plane from the end of a pair's lines to the next pair of outputs */
    int32_t next_output; /* 40: from behind the outputs of a pair to those of the next one */
    int32_t column;      /* 44: bytes of a plane from pair to pair of places */
    int32_t span;        /* 48: bytes of a plane that two lines of outputs at a time walk over, not 0 */
    int32_t out_place;   /* 52: from place to place of the output */
    int32_t alone;       /* 56: 1: the last pair has one output only */
    int32_t odd;         /* 60: 1: one line of outputs is left behind twos of them */
    int32_t pairs;       /* 64: of outputs */
    const engine_i16 *planes; /* 68 */
    int32_t size;             /* 72: bytes of a plane */
    const int32_t *bias;              /* 76 */
    const engine_channel_t *channels; /* 80 */
    const int16_t *weights;           /* 84 */
    int8_t *output;                   /* 88 */
    int32_t left;                     /* 92: channels */
} engine_plane_t;

#if ENGINE_DSP

/* Two lines of two neighbouring outputs: r0 r1 pairs of places, r2 r3 their values in two lines, r4-r9 weights, sums in
   r10 r11 and r12 lr. A left pair meets w0 w1 of its first output, its right half w0 of the second one; the pair to the
   right of it w2 and w1 w2. */
#define ENGINE_LEFT(value, weights, first, second, from_first, from_second) \
    "smlad " first ", " value ", " weights ", " from_first "\n\t"           \
    "smlatb " second ", " value ", " weights ", " from_second "\n\t"

#define ENGINE_RIGHT(value, weights, first, second)           \
    "smlabt " first ", " value ", " weights ", " first "\n\t" \
    "smlad " second ", " value ", " weights ", " second "\n\t"

#define ENGINE_TWO_LINES_1                              \
    "ldr lr, [sp]\n\t"                                  \
    "ldrd r2, r3, [r0], #8\n\t"                         \
    ENGINE_LEFT("r2", "r4", "r10", "r11", "lr", "lr")   \
    ENGINE_LEFT("r3", "r4", "r12", "lr", "lr", "lr")    \
    ENGINE_LEFT("r3", "r6", "r10", "r11", "r10", "r11") \
    "ldrd r2, r3, [r0]\n\t"                             \
    ENGINE_LEFT("r2", "r8", "r10", "r11", "r10", "r11") \
    ENGINE_LEFT("r2", "r6", "r12", "lr", "r12", "lr")   \
    ENGINE_LEFT("r3", "r8", "r12", "lr", "r12", "lr")   \
    "ldrd r2, r3, [r1], #8\n\t"                         \
    ENGINE_RIGHT("r2", "r5", "r10", "r11")              \
    ENGINE_RIGHT("r3", "r5", "r12", "lr")               \
    ENGINE_RIGHT("r3", "r7", "r10", "r11")              \
    "ldrd r2, r3, [r1]\n\t"                             \
    ENGINE_RIGHT("r2", "r9", "r10", "r11")              \
    ENGINE_RIGHT("r2", "r7", "r12", "lr")               \
    ENGINE_RIGHT("r3", "r9", "r12", "lr")

#define ENGINE_ONE_LINE_1                               \
    "ldr r11, [sp]\n\t"                                 \
    "ldrd r2, r3, [r0]\n\t"                             \
    ENGINE_LEFT("r2", "r4", "r10", "r11", "r11", "r11") \
    ENGINE_LEFT("r3", "r6", "r10", "r11", "r10", "r11") \
    "ldr r2, [r0, #8]\n\t"                              \
    ENGINE_LEFT("r2", "r8", "r10", "r11", "r10", "r11") \
    "ldrd r2, r3, [r1]\n\t"                             \
    ENGINE_RIGHT("r2", "r5", "r10", "r11")              \
    ENGINE_RIGHT("r3", "r7", "r10", "r11")              \
    "ldr r2, [r1, #8]\n\t"                              \
    ENGINE_RIGHT("r2", "r9", "r10", "r11")

/* In steps of two, a second output begins with the pair to the right, and a third pair ends it. */
#define ENGINE_WHOLE(value, weights, sum, from) "smlad " sum ", " value ", " weights ", " from "\n\t"
#define ENGINE_HALF(value, weights, sum) "smlabt " sum ", " value ", " weights ", " sum "\n\t"

#define ENGINE_TWO_LINES_2                                                                     \
    "ldr lr, [sp]\n\t"                                                                         \
    "ldrd r2, r3, [r0], #8\n\t"                                                                \
    ENGINE_WHOLE("r2", "r4", "r10", "lr") ENGINE_WHOLE("r3", "r6", "r10", "r10")               \
    "ldrd r2, r3, [r0], #8\n\t"                                                                \
    ENGINE_WHOLE("r2", "r8", "r10", "r10") ENGINE_WHOLE("r2", "r4", "r12", "lr")               \
    ENGINE_WHOLE("r3", "r6", "r12", "r12")                                                     \
    "ldr r2, [r0]\n\t"                                                                         \
    ENGINE_WHOLE("r2", "r8", "r12", "r12")                                                     \
    "ldrd r2, r3, [r1], #8\n\t"                                                                \
    ENGINE_HALF("r2", "r5", "r10") ENGINE_WHOLE("r2", "r4", "r11", "lr")                       \
    ENGINE_HALF("r3", "r7", "r10") ENGINE_WHOLE("r3", "r6", "r11", "r11")                      \
    "ldrd r2, r3, [r1], #8\n\t"                                                                \
    ENGINE_HALF("r2", "r9", "r10") ENGINE_WHOLE("r2", "r8", "r11", "r11")                      \
    ENGINE_HALF("r2", "r5", "r12") ENGINE_WHOLE("r2", "r4", "lr", "lr")                        \
    ENGINE_HALF("r3", "r7", "r12") ENGINE_WHOLE("r3", "r6", "lr", "lr")                        \
    "ldr r2, [r1]\n\t"                                                                         \
    ENGINE_HALF("r2", "r9", "r12") ENGINE_WHOLE("r2", "r8", "lr", "lr")                        \
    "rsb r0, r0, r1, lsl #1\n\t"                                                               \
    "ldrd r2, r3, [r0, #-16]\n\t"                                                              \
    ENGINE_HALF("r2", "r5", "r11") ENGINE_HALF("r3", "r7", "r11")                              \
    "ldrd r2, r3, [r0, #-8]\n\t"                                                               \
    ENGINE_HALF("r2", "r9", "r11") ENGINE_HALF("r2", "r5", "lr") ENGINE_HALF("r3", "r7", "lr") \
    "ldr r2, [r0]\n\t"                                                                         \
    ENGINE_HALF("r2", "r9", "lr")                                                              \
    "rsb r0, r0, r1, lsl #1\n\t"

#define ENGINE_ONE_LINE_2                                                         \
    "ldr r11, [sp]\n\t"                                                           \
    "ldrd r2, r3, [r0]\n\t"                                                       \
    ENGINE_WHOLE("r2", "r4", "r10", "r11") ENGINE_WHOLE("r3", "r6", "r10", "r10") \
    "ldr r2, [r0, #8]\n\t"                                                        \
    ENGINE_WHOLE("r2", "r8", "r10", "r10")                                        \
    "ldrd r2, r3, [r1]\n\t"                                                       \
    ENGINE_HALF("r2", "r5", "r10") ENGINE_WHOLE("r2", "r4", "r11", "r11")         \
    ENGINE_HALF("r3", "r7", "r10") ENGINE_WHOLE("r3", "r6", "r11", "r11")         \
    "ldr r2, [r1, #8]\n\t"                                                        \
    ENGINE_HALF("r2", "r9", "r10") ENGINE_WHOLE("r2", "r8", "r11", "r11")         \
    "rsb r12, r0, r1, lsl #1\n\t"                                                 \
    "ldrd r2, r3, [r12]\n\t"                                                      \
    ENGINE_HALF("r2", "r5", "r11") ENGINE_HALF("r3", "r7", "r11")                 \
    "ldr r2, [r12, #8]\n\t"                                                       \
    ENGINE_HALF("r2", "r9", "r11")

/* Two lines of one output each, for the last place of an odd number. */
#define ENGINE_ALONE_1                                                                           \
    "ldr lr, [sp]\n\t"                                                                           \
    "ldrd r2, r3, [r0], #8\n\t"                                                                  \
    ENGINE_WHOLE("r2", "r4", "r10", "lr") ENGINE_WHOLE("r3", "r4", "r12", "lr")                  \
    ENGINE_WHOLE("r3", "r6", "r10", "r10")                                                       \
    "ldrd r2, r3, [r0]\n\t"                                                                      \
    ENGINE_WHOLE("r2", "r8", "r10", "r10") ENGINE_WHOLE("r2", "r6", "r12", "r12")                \
    ENGINE_WHOLE("r3", "r8", "r12", "r12")                                                       \
    "ldrd r2, r3, [r1], #8\n\t"                                                                  \
    ENGINE_HALF("r2", "r5", "r10") ENGINE_HALF("r3", "r5", "r12") ENGINE_HALF("r3", "r7", "r10") \
    "ldrd r2, r3, [r1]\n\t"                                                                      \
    ENGINE_HALF("r2", "r9", "r10") ENGINE_HALF("r2", "r7", "r12") ENGINE_HALF("r3", "r9", "r12")

#define ENGINE_ALONE_2                                                                           \
    "ldr lr, [sp]\n\t"                                                                           \
    "ldrd r2, r3, [r0], #8\n\t"                                                                  \
    ENGINE_WHOLE("r2", "r4", "r10", "lr") ENGINE_WHOLE("r3", "r6", "r10", "r10")                 \
    "ldrd r2, r3, [r0], #8\n\t"                                                                  \
    ENGINE_WHOLE("r2", "r8", "r10", "r10") ENGINE_WHOLE("r2", "r4", "r12", "lr")                 \
    ENGINE_WHOLE("r3", "r6", "r12", "r12")                                                       \
    "ldr r2, [r0]\n\t"                                                                           \
    ENGINE_WHOLE("r2", "r8", "r12", "r12")                                                       \
    "ldrd r2, r3, [r1], #8\n\t"                                                                  \
    ENGINE_HALF("r2", "r5", "r10") ENGINE_HALF("r3", "r7", "r10")                                \
    "ldrd r2, r3, [r1], #8\n\t"                                                                  \
    ENGINE_HALF("r2", "r9", "r10") ENGINE_HALF("r2", "r5", "r12") ENGINE_HALF("r3", "r7", "r12") \
    "ldr r2, [r1]\n\t"                                                                           \
    ENGINE_HALF("r2", "r9", "r12")

/* Sums become outputs; r2 mantissa, r3 addend. */
#define ENGINE_COMMON_1(sum) "smmla " sum ", " sum ", r2, r3\n\t"
#define ENGINE_COMMON_2(sum) "ssat " sum ", #8, " sum ", asr #10\n\t"
#define ENGINE_COMMON_2_LINES                                                                  \
    "ldrd r2, r3, [sp, #4]\n\t"                                                                \
    ENGINE_COMMON_1("r10") ENGINE_COMMON_1("r11") ENGINE_COMMON_1("r12") ENGINE_COMMON_1("lr") \
    ENGINE_COMMON_2("r10") ENGINE_COMMON_2("r11") ENGINE_COMMON_2("r12") ENGINE_COMMON_2("lr")
#define ENGINE_COMMON_PAIR(first, second) \
    "ldrd r2, r3, [sp, #4]\n\t"           \
    ENGINE_COMMON_1(first) ENGINE_COMMON_1(second) ENGINE_COMMON_2(first) ENGINE_COMMON_2(second)

#define ENGINE_PLANE(two_lines, one_line, alone, rescale_4, rescale_2)                 \
    "push {r4-r11, lr}\n\t"                                                            \
    "sub sp, sp, #104\n\t"                                                             \
    "str r0, [sp, #100]\n\t"                                                           \
    "add r12, sp, #32\n\t"                                                             \
    "ldmia r0!, {r1-r8}\n\t"                                                           \
    "stmia r12!, {r1-r8}\n\t"                                                          \
    "ldmia r0!, {r1-r8}\n\t"                                                           \
    "stmia r12!, {r1-r8}\n\t"                                                          \
    "1:\n\t" /* a channel */                                                           \
    "ldrd r0, r1, [sp, #76]\n\t"                                                       \
    "ldr r2, [r0], #4\n\t"                                                             \
    "ldmia r1!, {r3, r10, r11}\n\t"                                                    \
    "stmia sp, {r2, r3, r10, r11}\n\t"                                                 \
    "strd r0, r1, [sp, #76]\n\t"                                                       \
    "ldrd r0, r2, [sp, #84]\n\t"                                                       \
    "ldmia r0!, {r4-r9}\n\t"                                                           \
    "add r3, r2, #1\n\t"                                                               \
    "strd r0, r3, [sp, #84]\n\t"                                                       \
    "str r9, [sp, #96]\n\t"                                                            \
    "ldrd r0, r3, [sp, #68]\n\t"                                                       \
    "add r3, r3, r0\n\t"                                                               \
    "str r3, [sp, #68]\n\t"                                                            \
    "ldr r12, [sp, #64]\n\t"                                                           \
    "ldr r3, [sp, #52]\n\t"                                                            \
    "str r3, [sp, #24]\n\t"                                                            \
    "2:\n\t" /* a pair of outputs in all lines: r0 plane, r2 output, r12 pairs left */ \
    "strd r12, r2, [sp, #16]\n\t"                                                      \
    "ldrd r10, r11, [sp, #44]\n\t"                                                     \
    "add r1, r0, r10\n\t"                                                              \
    "add r11, r11, r0\n\t"                                                             \
    "str r11, [sp, #28]\n\t"                                                           \
    "cmp r12, #1\n\t"                                                                  \
    "beq 7f\n\t"                                                                       \
    "3:\n\t" two_lines rescale_4                                                       \
    "ldrd r2, r3, [sp, #20]\n\t"                                                       \
    "strb r11, [r2, r3]\n\t"                                                           \
    "strb r10, [r2]\n\t"                                                               \
    "ldrd r10, r11, [sp, #28]\n\t"                                                     \
    "add r2, r2, r11\n\t"                                                              \
    "strb lr, [r2, r3]\n\t"                                                            \
    "strb r12, [r2]\n\t"                                                               \
    "add r2, r2, r11\n\t"                                                              \
    "str r2, [sp, #20]\n\t"                                                            \
    "cmp r0, r10\n\t"                                                                  \
    "bne 3b\n\t"                                                                       \
    "4:\n\t"                                                                           \
    "ldr r2, [sp, #60]\n\t"                                                            \
    "cbnz r2, 6f\n\t"                                                                  \
    "5:\n\t"                                                                           \
    "ldrd r10, r11, [sp, #36]\n\t"                                                     \
    "ldrd r12, r2, [sp, #16]\n\t"                                                      \
    "add r0, r0, r10\n\t"                                                              \
    "add r2, r2, r11\n\t"                                                              \
    "subs r12, r12, #1\n\t"                                                            \
    "bne 2b\n\t"                                                                       \
    "ldr r2, [sp, #92]\n\t"                                                            \
    "subs r2, r2, #1\n\t"                                                              \
    "str r2, [sp, #92]\n\t"                                                            \
    "bne 1b\n\t"                                                                       \
    "add r1, sp, #76\n\t" /* where the next channels are */                            \
    "ldmia r1, {r2-r5}\n\t"                                                            \
    "ldr r0, [sp, #100]\n\t"                                                           \
    "add r0, r0, #44\n\t"                                                              \
    "stmia r0, {r2-r5}\n\t"                                                            \
    "add sp, sp, #104\n\t"                                                             \
    "pop {r4-r11, pc}\n\t"                                                             \
    "6:\n\t" one_line rescale_2("r10", "r11")                                          \
    "ldrd r2, r3, [sp, #20]\n\t"                                                       \
    "strb r11, [r2, r3]\n\t"                                                           \
    "strb r10, [r2]\n\t"                                                               \
    "b 5b\n\t"                                                                         \
    "7:\n\t" /* the last pair */                                                       \
    "ldr r3, [sp, #56]\n\t"                                                            \
    "cmp r3, #0\n\t"                                                                   \
    "beq 3b\n\t"                                                                       \
    "mov r3, #0\n\t"                                                                   \
    "str r3, [sp, #24]\n\t"                                                            \
    "8:\n\t" alone rescale_2("r10", "r12")                                             \
    "ldr r2, [sp, #20]\n\t"                                                            \
    "strb r10, [r2]\n\t"                                                               \
    "ldrd r10, r11, [sp, #28]\n\t"                                                     \
    "add r2, r2, r11\n\t"                                                              \
    "strb r12, [r2]\n\t"                                                               \
    "add r2, r2, r11\n\t"                                                              \
    "str r2, [sp, #20]\n\t"                                                            \
    "cmp r0, r10\n\t"                                                                  \
    "bne 8b\n\t"                                                                       \
    "b 4b\n\t"

#define ENGINE_PLANE_FUNCTION(name, two_lines, one_line, alone, rescale_4, rescale_2)      \
    __attribute__((naked)) static void name(engine_plane_t *plane __attribute__((unused))) \
    {                                                                                      \
        __asm__(ENGINE_PLANE(two_lines, one_line, alone, rescale_4, rescale_2));           \
    }

ENGINE_PLANE_FUNCTION(
    engine_plane_1, ENGINE_TWO_LINES_1, ENGINE_ONE_LINE_1, ENGINE_ALONE_1, ENGINE_COMMON_2_LINES, ENGINE_COMMON_PAIR)
ENGINE_PLANE_FUNCTION(
    engine_plane_2, ENGINE_TWO_LINES_2, ENGINE_ONE_LINE_2, ENGINE_ALONE_2, ENGINE_COMMON_2_LINES, ENGINE_COMMON_PAIR)

/* Moves bias, channels, weights and output on behind the channels that were done. */
static void engine_plane(const engine_planes_t *layer, engine_plane_t *plane)
{
    if (layer->stride == 1) {
        engine_plane_1(plane);
    } else {
        engine_plane_2(plane);
    }
}

#else

/* One sum: `second` and `third` are the places to the right. */
static int32_t engine_plane_sum(
    const engine_i16 *first, int32_t second, int32_t third, const int16_t *weights, int32_t bias)
{
    int32_t sum = bias;
    for (int32_t line = 0; line < 3; line++) {
        sum = engine_add(sum, first[0] * weights[0] + first[second] * weights[1] + first[third] * weights[3]);
        first += 2;
        weights += 4;
    }
    return sum;
}

static void engine_plane_channel(const engine_planes_t *layer, const engine_plane_t *plane)
{
    const int32_t third = plane->column / 2;
    for (int32_t place = 0; place < layer->out_places; place++) {
        const int32_t at = place * layer->stride, second = at & 1 ? third - 1 : 1;
        const engine_i16 *first = plane->planes + at / 2 * third + (at & 1);
        int8_t *output = plane->output + place * plane->out_place;
        for (int32_t line = 0; line < layer->out_lines; line++) {
            const int32_t sum = engine_plane_sum(first, second, third, plane->weights, *plane->bias);
            *output = engine_plane_rescale(plane->channels, sum, layer->common);
            first += 2 * layer->stride;
            output += plane->out_line;
        }
    }
}

static void engine_plane(const engine_planes_t *layer, engine_plane_t *plane)
{
    const engine_i16 *planes = plane->planes;
    for (int32_t channel = 0; channel < plane->left; channel++) {
        engine_plane_channel(layer, plane);
        plane->planes += plane->size / 2;
        plane->bias++;
        plane->channels++;
        plane->weights += 12;
        plane->output++;
    }
    plane->planes = planes;
}

#endif

static engine_plane_t engine_plane_start(const engine_planes_t *layer, int8_t *output, const engine_i16 *planes)
{
    const int32_t column = layer->image.lines * 4, twos = layer->out_lines / 2 * 2;
    const engine_plane_t plane = {
        layer->out_line,
        column * layer->stride - twos * layer->stride * 4,
        layer->out_place * 2 - twos * layer->out_line,
        column,
        twos * layer->stride * 4,
        layer->out_place,
        layer->out_places & 1,
        layer->out_lines & 1,
        (layer->out_places + 1) / 2,
        planes,
        layer->image.pairs * column,
        layer->bias,
        layer->channels,
        layer->weights,
        output,
        0,
    };
    return plane;
}

static void engine_planes_by(
    void (*function)(const engine_planes_t *layer, engine_plane_t *plane),
    const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_i16 *planes = (engine_i16 *)scratch;
    const int32_t depth = layer->image.depth;
    engine_plane_t plane = engine_plane_start(layer, output, planes);
    engine_plane_lines_t lines = engine_plane_phase(&layer->image, planes, input, 0);
    (void)memset(scratch, 0, (size_t)(plane.size * layer->group));
    for (int32_t channel = 0; channel < depth; channel += plane.left) {
        plane.left = depth - channel < layer->group ? depth - channel : layer->group;
        lines.channels = plane.left;
        engine_plane_lines(&lines);
        lines.input += plane.left;
        function(layer, &plane);
    }
    if (layer->low > INT8_MIN || layer->high < INT8_MAX) {
        engine_clamp_all(output, depth * layer->out_lines * layer->out_places, layer->low, layer->high);
    }
}

void engine_planes(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_planes_by(engine_plane, layer, input, output, scratch);
}
