/* Where registers are few, two pixels' values stand in one word, and one multiplication serves both. ENGINE_NARROW
   chooses that for other cores, in plain C. */
#if ENGINE_THUMB1 || defined(ENGINE_NARROW)
#define ENGINE_LEAN_WORDS 1
#else
#define ENGINE_LEAN_WORDS 0
#endif

#if defined(__GNUC__)
typedef uint32_t __attribute__((may_alias)) engine_u32;
#else
typedef uint32_t engine_u32;
#endif

/* A value of each of two pixels: as one word, the second times 2^16, or as two int16. */
static inline void engine_lean_put(engine_i16 *patch, int32_t first, int32_t second)
{
#if ENGINE_LEAN_WORDS
    *(engine_u32 *)(void *)patch = (uint32_t)first + ((uint32_t)second << 16);
#else
    patch[0] = (int16_t)first;
    patch[1] = (int16_t)second;
#endif
}

/* Values of two pixels side by side; returns where the next ones go. */
static engine_i16 *engine_lean_run(engine_i16 *patch, const int8_t *first, const int8_t *second, int32_t count)
{
    const engine_i16 *end = patch + (count & ~3) * 2;
    while (patch != end) {
        engine_lean_put(patch, first[0], second[0]);
        engine_lean_put(patch + 2, first[1], second[1]);
        engine_lean_put(patch + 4, first[2], second[2]);
        engine_lean_put(patch + 6, first[3], second[3]);
        patch += 8;
        first += 4;
        second += 4;
    }
    for (int32_t left = count & 3; left > 0; left--) {
        engine_lean_put(patch, *first++, *second++);
        patch += 2;
    }
    return patch;
}

/* Where a kernel begins in the input. */
typedef struct {
    int32_t y, x;
} engine_lean_corner_t;

static engine_lean_corner_t engine_lean_corner(const engine_lean_conv_t *layer, int32_t pixel)
{
    const int32_t y = pixel / layer->out_w, x = pixel - y * layer->out_w;
    const engine_lean_corner_t corner = {y * layer->stride_h - layer->pad_h, x * layer->stride_w - layer->pad_w};
    return corner;
}

/* A pixel of the input, or a blank one outside of it. */
static const int8_t *engine_lean_pixel(
    const engine_lean_conv_t *layer, const int8_t *input, const int8_t *blank, int32_t y, int32_t x)
{
    const int32_t inside = y >= 0 && y < layer->in_h && x >= 0 && x < layer->in_w;
    return inside ? input + (y * layer->in_w + x) * layer->in_c : blank;
}

static int32_t engine_lean_inside(const engine_lean_conv_t *layer, engine_lean_corner_t corner)
{
    const int32_t bottom = corner.y + (layer->kernel_h - 1) * layer->dilation_h;
    return corner.y >= 0 && bottom < layer->in_h && corner.x >= 0 && corner.x + layer->kernel_w <= layer->in_w;
}

/* What two outputs need, side by side. */
static void engine_lean_patch(
    const engine_lean_conv_t *layer, const int8_t *input, const int8_t *blank, engine_i16 *patch,
    engine_lean_corner_t first, engine_lean_corner_t second)
{
    const int32_t joined = layer->dilation_w == 1 && engine_lean_inside(layer, first) && engine_lean_inside(layer, second);
    const int32_t columns = joined ? 1 : layer->kernel_w, count = joined ? layer->kernel_w * layer->in_c : layer->in_c;
    for (int32_t row = 0; row < layer->kernel_h; row++) {
        const int32_t down = row * layer->dilation_h;
        for (int32_t column = 0; column < columns; column++) {
            const int32_t right = column * layer->dilation_w;
            const int8_t *one = engine_lean_pixel(layer, input, blank, first.y + down, first.x + right);
            const int8_t *other = engine_lean_pixel(layer, input, blank, second.y + down, second.x + right);
            patch = engine_lean_run(patch, one, other, count);
        }
    }
}

/* Blocks of two channels over what two outputs need. The order of members is known to the assembly. */
typedef struct {
    const engine_i16 *patch;
    const int8_t *weights;
    const int32_t *bias;
    int32_t *sums; /* of each channel for the first output, then for the second */
    int32_t quads;
    int32_t blocks; /* at least 1 */
} engine_lean_blocks_t;

#if ENGINE_THUMB1

/* Half a quad of a channel: r4 its weights, r5 and r6 free, `one` and `other` two values of each pixel. Two products fit
   16 bits, so the word has the first pixel's sum in its lower half, which 0x8000 keeps from being negative. */
#define ENGINE_LEAN_HALF(low, high, first, one, last, other)      \
    first "muls r5, r5, " one "\n\t"                              \
    last "muls r6, r6, " other "\n\t"                             \
    "adds r5, r5, r6\n\tadd r5, r5, r9\n\t"                      \
    "uxth r6, r5\n\tadd " low ", " low ", r6\n\t"               \
    "asrs r5, r5, #16\n\tadd " high ", " high ", r5\n\t"

#define ENGINE_LEAN_CHANNEL(low, high)                                                             \
    "ldmia r7!, {r4}\n\t"                                                                          \
    ENGINE_LEAN_HALF(low, high, "sxtb r5, r4\n\t", "r0", "lsls r6, r4, #16\n\tasrs r6, r6, #24\n\t", "r1") \
    ENGINE_LEAN_HALF(low, high, "lsls r5, r4, #8\n\tasrs r5, r5, #24\n\t", "r2", "asrs r6, r4, #24\n\t", "r3")

/* r0-r3 values of both pixels, r7 weights, r8 patch, r9 0x8000, r10 r11 sums of a channel, r12 lr of the other one.
   Stack: 0 end of the block's weights, 4 patch, 8 bias, 12 sums, 16 bytes of a block's weights, 20 blocks left,
   24 quads * 2^16. */
__attribute__((naked)) static void engine_lean_sums(const engine_lean_blocks_t *blocks __attribute__((unused)))
{
    __asm__(
        ".syntax unified\n\t"
        "push {r4-r7, lr}\n\t"
        "mov r4, r8\n\tmov r5, r9\n\tmov r6, r10\n\tmov r7, r11\n\t"
        "push {r4-r7}\n\t"
        "sub sp, sp, #28\n\t"
        "ldr r1, [r0, #0]\n\tstr r1, [sp, #4]\n\t"
        "ldr r7, [r0, #4]\n\t"
        "ldr r1, [r0, #8]\n\tstr r1, [sp, #8]\n\t"
        "ldr r1, [r0, #12]\n\tstr r1, [sp, #12]\n\t"
        "ldr r1, [r0, #16]\n\tlsls r2, r1, #3\n\tstr r2, [sp, #16]\n\tlsls r2, r1, #16\n\tstr r2, [sp, #24]\n\t"
        "ldr r1, [r0, #20]\n\tstr r1, [sp, #20]\n\t"
        "movs r1, #128\n\tlsls r1, r1, #8\n\tmov r9, r1\n\t"
        "1:\n\t" /* a block: sums begin with the bias, less the 0x8000 that will be added */
        "ldr r0, [sp, #8]\n\tldmia r0!, {r1, r2}\n\tstr r0, [sp, #8]\n\t"
        "mov r11, r1\n\tmov lr, r2\n\t"
        "ldr r3, [sp, #24]\n\tsubs r1, r1, r3\n\tsubs r2, r2, r3\n\t"
        "mov r10, r1\n\tmov r12, r2\n\t"
        "ldr r4, [sp, #16]\n\tadds r4, r4, r7\n\tstr r4, [sp, #0]\n\t"
        "ldr r4, [sp, #4]\n\tmov r8, r4\n\t"
        "2:\n\t" /* a quad */
        "mov r4, r8\n\tldmia r4!, {r0-r3}\n\tmov r8, r4\n\t"
        ENGINE_LEAN_CHANNEL("r10", "r11") ENGINE_LEAN_CHANNEL("r12", "lr")
        "ldr r4, [sp, #0]\n\tcmp r7, r4\n\tbne 2b\n\t"
        "ldr r0, [sp, #12]\n\t"
        "mov r1, r10\n\tmov r2, r11\n\tmov r3, r12\n\tmov r4, lr\n\t"
        "stmia r0!, {r1-r4}\n\tstr r0, [sp, #12]\n\t"
        "ldr r0, [sp, #20]\n\tsubs r0, r0, #1\n\tstr r0, [sp, #20]\n\tbne 1b\n\t"
        "add sp, sp, #28\n\t"
        "pop {r4-r7}\n\t"
        "mov r8, r4\n\tmov r9, r5\n\tmov r10, r6\n\tmov r11, r7\n\t"
        "pop {r4-r7, pc}\n\t");
}

#else

/* One block; both pixels' sums come out of one multiplication where a patch is made of words. */
#if ENGINE_LEAN_WORDS

static inline uint32_t engine_lean_half(const engine_u32 *values, const int8_t *weights)
{
    const int32_t first = weights[0], second = weights[1];
    return values[0] * (uint32_t)first + values[1] * (uint32_t)second + 0x8000u;
}

static void engine_lean_block(const engine_i16 *patch, const int8_t *weights, int32_t quads, int32_t *sums)
{
    const engine_u32 *values = (const engine_u32 *)(const void *)patch;
    for (int32_t half = 0; half < quads * 2; half++) {
        const int8_t *first = weights + half / 2 * 8 + (half & 1) * 2;
        for (int32_t channel = 0; channel < 2; channel++) {
            const uint32_t both = engine_lean_half(values, first + channel * 4);
            sums[channel * 2] = engine_add(sums[channel * 2], (int32_t)(both & 0xffff) - 0x8000);
            sums[channel * 2 + 1] = engine_add(sums[channel * 2 + 1], (int32_t)both >> 16);
        }
        values += 2;
    }
}

#else

/* Value number `at` of both pixels; no sum leaves 32 bits, as the generator has proven. */
#define ENGINE_LEAN_STEP(at)                                              \
    do {                                                                  \
        const int32_t one = patch[2 * (at)], other = patch[2 * (at) + 1]; \
        const int32_t near = weights[at], far = weights[4 + (at)];        \
        first += one * near;                                              \
        second += other * near;                                           \
        third += one * far;                                               \
        fourth += other * far;                                            \
    } while (0)

static inline void engine_lean_block(const engine_i16 *patch, const int8_t *weights, int32_t quads, int32_t *sums)
{
    int32_t first = sums[0], second = sums[1], third = sums[2], fourth = sums[3];
    for (const int8_t *end = weights + quads * 8; weights != end; weights += 8) {
        ENGINE_LEAN_STEP(0);
        ENGINE_LEAN_STEP(1);
        ENGINE_LEAN_STEP(2);
        ENGINE_LEAN_STEP(3);
        patch += 8;
    }
    sums[0] = first;
    sums[1] = second;
    sums[2] = third;
    sums[3] = fourth;
}

#endif

static void engine_lean_sums(const engine_lean_blocks_t *blocks)
{
    for (int32_t block = 0; block < blocks->blocks; block++) {
        const int32_t *bias = blocks->bias + block * 2;
        int32_t *sums = blocks->sums + block * 4;
        sums[0] = sums[1] = bias[0];
        sums[2] = sums[3] = bias[1];
        engine_lean_block(blocks->patch, blocks->weights + block * blocks->quads * 8, blocks->quads, sums);
    }
}

#endif

/* Outputs of two pixels, the second one first, as it may be the same. */
static void engine_lean_store(const engine_lean_conv_t *layer, const int32_t *sums, int8_t *first, int8_t *second)
{
    const engine_lean_channel_t *channel = layer->channels, *end = channel + layer->out_c;
    while (channel != end) {
        *second++ = (int8_t)engine_lean_output(sums[1], channel);
        *first++ = (int8_t)engine_lean_output(sums[0], channel);
        sums += 2;
        channel++;
    }
}

void engine_lean_conv(const engine_lean_conv_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t pixels = layer->out_h * layer->out_w, blocks = (layer->out_c + 1) / 2;
    engine_i16 *patch = (engine_i16 *)scratch;
    int32_t *sums = (int32_t *)scratch + layer->quads * 4;
    int8_t *blank = (int8_t *)(sums + blocks * 4);
    const engine_lean_blocks_t all = {patch, layer->weights, layer->bias, sums, layer->quads, blocks};
    (void)memset(blank, layer->in_zero, (size_t)layer->in_c);
    for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
        const int32_t next = pixel + 1 < pixels ? pixel + 1 : pixel;
        engine_lean_patch(
            layer, input, blank, patch, engine_lean_corner(layer, pixel), engine_lean_corner(layer, next));
        engine_lean_sums(&all);
        engine_lean_store(layer, sums, output + pixel * layer->out_c, output + next * layer->out_c);
    }
}
