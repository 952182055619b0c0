/* One channel: its plane, its weights and where its outputs go. The order of members is known to the assembly. */
typedef struct {
    uint32_t weights[6]; /* twice (w0, w1) and (w1, w2) of each row, as halves of words */
    int32_t bias;
    int32_t mantissa, addend, shift;
    const engine_i16 *plane;
    int32_t pitch; /* bytes from row to row */
    int8_t *output;
    int32_t stride; /* from pixel to pixel of the output */
    int32_t delta;  /* the assembly's own */
    int32_t span;   /* bytes of a plane's row behind which all pairs of outputs are done */
    int32_t odd;    /* 1: one output is left then */
    int32_t rows;   /* of the output */
    int32_t row_step; /* bytes of the plane from output row to output row */
    const engine_i16 *end; /* the assembly's own */
    int32_t low, high;
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

#define ENGINE_PLANE_CLAMP                               \
    "ldrd r2, r3, [sp, #80]\n\t"                         \
    "cmp r10, r2\n\tit lt\n\tmovlt r10, r2\n\t"          \
    "cmp r11, r2\n\tit lt\n\tmovlt r11, r2\n\t"          \
    "cmp r10, r3\n\tit gt\n\tmovgt r10, r3\n\t"          \
    "cmp r11, r3\n\tit gt\n\tmovgt r11, r3\n\t"

#define ENGINE_PLANE(row, step, clamp)                                                        \
    "push {r4-r11, lr}\n\t"                                                                   \
    "sub sp, sp, #88\n\t"                                                                     \
    "mov r12, sp\n\t"                                                                         \
    "ldmia r0!, {r1-r11}\n\tstmia r12!, {r1-r11}\n\t"                                         \
    "ldmia r0!, {r1-r11}\n\tstmia r12!, {r1-r11}\n\t"                                         \
    "ldmia sp, {r4-r9}\n\t"                                                                   \
    "1:\n\t" /* a row of outputs */                                                           \
    "ldrd r0, r2, [sp, #40]\n\t"                                                              \
    "add r1, r0, r2\n\t"                                                                      \
    "add r12, r1, r2\n\t"                                                                     \
    "ldr r2, [sp, #60]\n\t"                                                                   \
    "add lr, r0, r2\n\t"                                                                      \
    "str lr, [sp, #76]\n\t"                                                                   \
    "ldr r2, [sp, #52]\n\t"                                                                   \
    "str r2, [sp, #56]\n\t"                                                                   \
    "b 3f\n\t"                                                                                \
    "2:\n\t" /* two outputs */                                                                \
    "ldr r10, [sp, #24]\n\t"                                                                  \
    "mov r11, r10\n\t"                                                                        \
    row("r0", "r4", "r5") row("r1", "r6", "r7") row("r12", "r8", "r9")                        \
    "ldrd r2, r3, [sp, #28]\n\t"                                                              \
    "add lr, r3, r10, asr #31\n\t"                                                            \
    "add r3, r3, r11, asr #31\n\t"                                                            \
    "smmlar r10, r10, r2, lr\n\t"                                                             \
    "smmlar r11, r11, r2, r3\n\t"                                                             \
    "ldr r2, [sp, #36]\n\t"                                                                   \
    "asr r10, r10, r2\n\t"                                                                    \
    "asr r11, r11, r2\n\t"                                                                    \
    "ssat r10, #8, r10\n\t"                                                                   \
    "ssat r11, #8, r11\n\t" clamp                                                             \
    "ldr r2, [sp, #48]\n\t"                                                                   \
    "ldr r3, [sp, #56]\n\t"                                                                   \
    "strb r11, [r2, r3]\n\t"                                                                  \
    "strb r10, [r2]\n\t"                                                                      \
    "add r2, r2, r3, lsl #1\n\t"                                                              \
    "str r2, [sp, #48]\n\t"                                                                   \
    "3:\n\t"                                                                                  \
    "ldr lr, [sp, #76]\n\t"                                                                   \
    "cmp r0, lr\n\t"                                                                          \
    "bne 2b\n\t"                                                                              \
    "ldr r2, [sp, #64]\n\t"                                                                   \
    "cbz r2, 5f\n\t"                                                                          \
    "ldr r3, [sp, #56]\n\t" /* the last, alone: both stores go to the same place */           \
    "cbz r3, 4f\n\t"                                                                          \
    "mov r3, #0\n\t"                                                                          \
    "str r3, [sp, #56]\n\t"                                                                   \
    "add lr, lr, #" step "\n\t"                                                               \
    "str lr, [sp, #76]\n\t"                                                                   \
    "b 2b\n\t"                                                                                \
    "4:\n\t"                                                                                  \
    "ldrd r2, r3, [sp, #48]\n\t"                                                              \
    "add r2, r2, r3\n\t"                                                                      \
    "str r2, [sp, #48]\n\t"                                                                   \
    "5:\n\t"                                                                                  \
    "ldr r0, [sp, #40]\n\t"                                                                   \
    "ldrd r2, r3, [sp, #68]\n\t"                                                              \
    "add r0, r0, r3\n\t"                                                                      \
    "str r0, [sp, #40]\n\t"                                                                   \
    "subs r2, r2, #1\n\t"                                                                     \
    "str r2, [sp, #68]\n\t"                                                                   \
    "bne 1b\n\t"                                                                              \
    "add sp, sp, #88\n\t"                                                                     \
    "pop {r4-r11, pc}\n\t"

#define ENGINE_PLANE_FUNCTION(name, row, step, clamp)                                                \
    __attribute__((naked)) static void name(const engine_plane_t *plane __attribute__((unused)))     \
    {                                                                                                \
        __asm__(ENGINE_PLANE(row, step, clamp));                                                     \
    }

ENGINE_PLANE_FUNCTION(engine_plane_1, ENGINE_PLANE_ROW_1, "4", "")
ENGINE_PLANE_FUNCTION(engine_plane_1_clamped, ENGINE_PLANE_ROW_1, "4", ENGINE_PLANE_CLAMP)
ENGINE_PLANE_FUNCTION(engine_plane_2, ENGINE_PLANE_ROW_2, "8", "")
ENGINE_PLANE_FUNCTION(engine_plane_2_clamped, ENGINE_PLANE_ROW_2, "8", ENGINE_PLANE_CLAMP)

static void engine_plane(const engine_planes_t *layer, const engine_plane_t *plane)
{
    const int32_t clamped = layer->low > INT8_MIN || layer->high < INT8_MAX;
    if (layer->stride_w == 1) {
        (clamped ? engine_plane_1_clamped : engine_plane_1)(plane);
    } else {
        (clamped ? engine_plane_2_clamped : engine_plane_2)(plane);
    }
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

static void engine_plane(const engine_planes_t *layer, const engine_plane_t *plane)
{
    const engine_channel_t channel = {plane->mantissa, plane->addend, plane->shift};
    const int32_t pitch = plane->pitch / 2;
    int8_t *output = plane->output;
    for (int32_t y = 0; y < plane->rows; y++) {
        for (int32_t x = 0; x < layer->out_w; x++) {
            const engine_i16 *at = plane->plane + y * (plane->row_step / 2) + x * layer->stride_w;
            int32_t acc = plane->bias;
            for (int32_t row = 0; row < 3; row++) {
                const int16_t first = (int16_t)(plane->weights[row * 2] & 0xffff);
                const int16_t second = (int16_t)(plane->weights[row * 2 + 1] & 0xffff);
                const int16_t third = (int16_t)(plane->weights[row * 2 + 1] >> 16);
                acc = engine_add(acc, at[0] * first + at[1] * second + at[2] * third);
                at += pitch;
            }
            *output = (int8_t)engine_clamp(engine_rescale(acc, &channel, layer->form), layer->low, layer->high);
            output += plane->stride;
        }
    }
}

#endif

/* One row of four channels into the planes. */
static void engine_planes_row(const engine_planes_t *layer, engine_i16 *plane, const int8_t *input, int32_t count)
{
    const int32_t size = layer->rows * layer->pitch;
    int32_t x = 0;
#if ENGINE_DSP
    const uint32_t zeros = (uint32_t)(uint16_t)-layer->in_zero * 0x10001u;
    for (; x + 2 <= count; x += 2) {
        engine_planes_pixels(plane, size, engine_load(input), engine_load(input + layer->in_c), zeros);
        input += 2 * layer->in_c;
        plane += 2;
    }
#endif
    for (; x < count; x++) {
        for (int32_t channel = 0; channel < 4; channel++) {
            plane[channel * size] = (int16_t)(input[channel] - layer->in_zero);
        }
        input += layer->in_c;
        plane++;
    }
}

static void engine_planes_fill(const engine_planes_t *layer, engine_i16 *planes, const int8_t *input)
{
    const int32_t columns = layer->pitch - layer->pad_w, rows = layer->rows - layer->pad_h;
    const int32_t width = layer->in_w < columns ? layer->in_w : columns;
    const int32_t height = layer->in_h < rows ? layer->in_h : rows;
    for (int32_t y = 0; y < height; y++) {
        engine_i16 *row = planes + (layer->pad_h + y) * layer->pitch + layer->pad_w;
        engine_planes_row(layer, row, input + y * layer->in_w * layer->in_c, width);
    }
}

static void engine_planes_weights(uint32_t *words, const int8_t *weights)
{
    for (int32_t row = 0; row < 3; row++) {
        const uint32_t first = (uint16_t)(weights[0] * 2), second = (uint16_t)(weights[1] * 2);
        words[0] = first | second << 16;
        words[1] = second | (uint32_t)(uint16_t)(weights[2] * 2) << 16;
        words += 2;
        weights += 4;
    }
}

void engine_planes(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_i16 *planes = (engine_i16 *)scratch;
    const int32_t size = layer->rows * layer->pitch;
    engine_plane_t plane = {
        .pitch = layer->pitch * 2,
        .stride = layer->in_c,
        .span = layer->out_w / 2 * 4 * layer->stride_w,
        .odd = layer->out_w % 2,
        .rows = layer->out_h,
        .row_step = layer->pitch * 2 * layer->stride_h,
        .low = layer->low,
        .high = layer->high,
    };
    (void)memset(scratch, 0, (size_t)size * 8);
    for (int32_t at = 0; at < layer->in_c; at += 4) {
        engine_planes_fill(layer, planes, input + at);
        for (int32_t channel = at; channel < at + 4; channel++) {
            engine_planes_weights(plane.weights, layer->weights + channel * 12);
            plane.bias = layer->bias[channel];
            plane.mantissa = layer->channels[channel].mantissa;
            plane.addend = layer->channels[channel].addend;
            plane.shift = layer->channels[channel].shift;
            plane.plane = planes + (channel - at) * size;
            plane.output = output + channel;
            engine_plane(layer, &plane);
        }
    }
}
