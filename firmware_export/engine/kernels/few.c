/* Output pixels that follow each other. The order of members is known to the assembly. */
typedef struct {
    const int32_t *weights; /* of int16 */
    const int8_t *input;
    int32_t step; /* bytes from a run of four values to the next one */
    uint32_t zeros; /* the zero point with its sign changed, twice as int16 */
    int32_t next; /* bytes from a patch to the next one */
    uint32_t offset; /* four times the same byte */
    const int32_t *end; /* of the weights */
    int32_t count; /* of pixels, at least 1 */
} engine_few_t;

#if ENGINE_DSP

/* r0 output, r1 weights, r4-r7 (r9) patch, r2 sum, lr four channels. */
#define ENGINE_FEW_2_CHANNEL                                             \
    "ldmia.w r1!, {r2, r3, r8-r12}\n\t"                                  \
    "smlad r2, r4, r9, r2\n\tsmlad r2, r5, r10, r2\n\t"                  \
    "smlad r2, r6, r11, r2\n\tsmlad r2, r7, r12, r2\n\t"                 \
    "smmla r2, r2, r3, r8\n\t"

#define ENGINE_FEW_2_PATCH                                               \
    "ldr r5, [r2]\n\tldr r7, [r2, r3]\n\t"                               \
    "sxtab16 r4, r10, r5\n\tsxtab16 r5, r10, r5, ror #8\n\t"             \
    "sxtab16 r6, r10, r7\n\tsxtab16 r7, r10, r7, ror #8\n\t"

#define ENGINE_FEW_3_CHANNEL                                             \
    "ldmia.w r1!, {r2, r3, r10-r12}\n\t"                                 \
    "smlad r2, r4, r3, r2\n\tsmlad r2, r5, r10, r2\n\t"                  \
    "smlad r2, r6, r11, r2\n\tsmlad r2, r7, r12, r2\n\t"                 \
    "ldmia.w r1!, {r3, r10-r12}\n\t"                                     \
    "smlad r2, r8, r3, r2\n\tsmlad r2, r9, r10, r2\n\t"                  \
    "smmla r2, r2, r11, r12\n\t"

#define ENGINE_FEW_3_PATCH                                               \
    ENGINE_FEW_2_PATCH                                                   \
    "ldr r9, [r2, r3, lsl #1]\n\t"                                       \
    "sxtab16 r8, r10, r9\n\tsxtab16 r9, r10, r9, ror #8\n\t"

#define ENGINE_FEW(patch, channel)                                       \
    "push {r4-r11, lr}\n\t"                                              \
    "ldmia.w r1, {r4-r11}\n\t"                                           \
    "push {r4-r11}\n\t"                                                  \
    "1:\n\t"                                                             \
    "ldm.w sp, {r1, r2, r3, r10, r11}\n\t" patch                         \
    "add r2, r2, r11\n\t"                                                \
    "str r2, [sp, #4]\n\t"                                               \
    "2:\n\t"                                                             \
    channel "ssat lr, #8, r2, asr #12\n\t"                               \
    channel "ssat r2, #8, r2, asr #12\n\tbfi lr, r2, #8, #8\n\t"         \
    channel "ssat r2, #8, r2, asr #12\n\tbfi lr, r2, #16, #8\n\t"        \
    channel "ssat r2, #8, r2, asr #12\n\tbfi lr, r2, #24, #8\n\t"        \
    "ldrd r2, r3, [sp, #20]\n\t"                                         \
    "qadd8 lr, lr, r2\n\t"                                               \
    "str lr, [r0], #4\n\t"                                               \
    "cmp r1, r3\n\t"                                                     \
    "bne.w 2b\n\t"                                                       \
    "ldr r2, [sp, #28]\n\t"                                              \
    "subs r2, r2, #1\n\t"                                                \
    "str r2, [sp, #28]\n\t"                                              \
    "bne.w 1b\n\t"                                                       \
    "add sp, sp, #32\n\t"                                                \
    "pop {r4-r11, pc}\n\t"

__attribute__((naked)) static void engine_few_2(
    int8_t *output __attribute__((unused)), const engine_few_t *few __attribute__((unused)))
{
    __asm__(ENGINE_FEW(ENGINE_FEW_2_PATCH, ENGINE_FEW_2_CHANNEL));
}

__attribute__((naked)) static void engine_few_3(
    int8_t *output __attribute__((unused)), const engine_few_t *few __attribute__((unused)))
{
    __asm__(ENGINE_FEW(ENGINE_FEW_3_PATCH, ENGINE_FEW_3_CHANNEL));
}

static void engine_few(int8_t *output, const engine_few_t *few, int32_t quads)
{
    if (quads == 2) {
        engine_few_2(output, few);
    } else {
        engine_few_3(output, few);
    }
}

#else

/* Products of four values of a patch. */
static int32_t engine_few_quad(const int32_t *values, const engine_i16 *weights)
{
    return values[0] * weights[0] + values[2] * weights[1] + values[1] * weights[2] + values[3] * weights[3];
}

/* The values of a patch; outputs may be written over them. */
static void engine_few_load(const engine_few_t *few, const int8_t *input, int32_t *values, int32_t quads)
{
    const int32_t zero = (int16_t)(few->zeros & 0xffffu);
    for (int32_t at = 0; at < quads * 4; at++) {
        values[at] = input[at / 4 * few->step + at % 4] + zero;
    }
}

static void engine_few(int8_t *output, const engine_few_t *few, int32_t quads)
{
    const int32_t words = 3 + 2 * quads, at = quads == 2 ? 3 : 1, rescale = quads == 2 ? 1 : 7;
    int32_t values[12];
    for (int32_t pixel = 0; pixel < few->count; pixel++) {
        engine_few_load(few, few->input + pixel * few->next, values, quads);
        for (const int32_t *weights = few->weights; weights != few->end; weights += words) {
            uint32_t acc = (uint32_t)weights[0];
            for (int32_t quad = 0; quad < quads; quad++) {
                const engine_i16 *pairs = (const engine_i16 *)(weights + at + 2 * quad);
                acc += (uint32_t)engine_few_quad(values + quad * 4, pairs);
            }
            const int32_t high = (int32_t)(((int64_t)(int32_t)acc * weights[rescale]) >> 32) + weights[rescale + 1];
            *output++ = (int8_t)engine_saturate(engine_saturate(high >> ENGINE_SHIFT) + (int8_t)(few->offset & 255));
        }
    }
}

#endif

/* Weights of int8 become int16. */
static void engine_few_expand(const engine_conv_t *layer, int32_t *to)
{
    const int32_t *from = layer->weights;
    const int32_t at = layer->quads == 2 ? 3 : 1, rescale = layer->quads == 2 ? 1 : 7;
    for (int32_t channel = 0; channel < layer->out_c; channel++) {
        to[0] = from[0];
        to[rescale] = from[1];
        to[rescale + 1] = from[2];
        for (int32_t quad = 0; quad < layer->quads; quad++) {
            const uint32_t bytes = (uint32_t)from[3 + quad];
            to[at + 2 * quad] = (int32_t)((bytes << 8) & 0xff00ff00u);
            to[at + 2 * quad + 1] = (int32_t)(bytes & 0xff00ff00u);
        }
        from += 3 + layer->quads;
        to += 3 + 2 * layer->quads;
    }
}

/* Pixels whose patches are not in memory as they are. */
static int8_t *engine_few_gathered(
    const engine_conv_t *layer, const engine_few_t *few, const int8_t *input, int8_t *output, int32_t y, int32_t x,
    int8_t *room)
{
    engine_few_t one = *few;
    engine_conv_gather(layer, room, input, y, x);
    one.input = room;
    one.step = 4;
    one.count = 1;
    engine_few(output, &one, layer->quads);
    return output + layer->out_c;
}

void engine_conv_few(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t pitch = layer->in_w * layer->in_c;
    int8_t *room = (int8_t *)scratch;
    int32_t *expanded = (int32_t *)scratch + 4;
    const int32_t *weights = layer->wide ? layer->weights : expanded;
    engine_few_t few = {
        weights,
        input,
        layer->row_quads > 1 ? 4 : layer->dilation_h * pitch,
        (uint32_t)(uint16_t)-layer->in_zero * 0x10001u,
        layer->stride_w * layer->in_c,
        (uint8_t)layer->offset * 0x1010101u,
        weights + layer->out_c * (3 + 2 * layer->quads),
        layer->out_h * layer->out_w,
    };
    if (!layer->wide) {
        engine_few_expand(layer, expanded);
    }
    if (layer->kernel_h * layer->kernel_w * layer->stride_h * layer->stride_w == 1 && layer->in_c % 4 == 0) {
        engine_few(output, &few, layer->quads);
        return;
    }
    for (int32_t row = 0; row < layer->out_h; row++) {
        const int32_t y = row * layer->stride_h - layer->pad_h, inside = engine_conv_inside(layer, y);
        for (int32_t left = layer->out_w, x = -layer->pad_w; left > 0;) {
            if (x < 0 || x >= inside) {
                output = engine_few_gathered(layer, &few, input, output, y, x, room);
                left--;
                x += layer->stride_w;
                continue;
            }
            const int32_t run = (inside - 1 - x) / layer->stride_w + 1;
            few.count = run < left ? run : left;
            few.input = input + y * pitch + x * layer->in_c;
            engine_few(output, &few, layer->quads);
            output += few.count * layer->out_c;
            left -= few.count;
            x += few.count * layer->stride_w;
        }
    }
}
