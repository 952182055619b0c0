/* Channels whose sums stand on the stack. */
enum { ENGINE_LEAN_CHANNELS = 32 };

/* Blocks of four channels over one row. The order of members is known to the assembly. */
typedef struct {
    const uint8_t *values; /* plus 128 */
    const int8_t *weights;
    const int32_t *bias;
    int32_t *sums;
    int32_t quads;
    int32_t blocks; /* at least 1 */
} engine_lean_row_t;

#if defined(__thumb__) && !defined(__thumb2__)

/* One value: r0 it, r1 four weights, r2 free, r3 values, r4 weights, r8-r11 sums. */
#define ENGINE_LEAN_VALUE(at)                                                        \
    "ldrb r0, [r3, #" at "]\n\tldmia r4!, {r1}\n\t"                                  \
    "sxtb r2, r1\n\tmuls r2, r2, r0\n\tadd r8, r8, r2\n\t"                           \
    "lsls r2, r1, #16\n\tasrs r2, r2, #24\n\tmuls r2, r2, r0\n\tadd r9, r9, r2\n\t"  \
    "lsls r2, r1, #8\n\tasrs r2, r2, #24\n\tmuls r2, r2, r0\n\tadd r10, r10, r2\n\t" \
    "asrs r1, r1, #24\n\tmuls r1, r1, r0\n\tadd r11, r11, r1\n\t"

/* r5 bias, r6 sums, r7 end of the values, r12 blocks left; on the stack the values. */
__attribute__((naked)) static void engine_lean_row(const engine_lean_row_t *row __attribute__((unused)))
{
    __asm__(
        ".syntax unified\n\t"
        "push {r4-r7, lr}\n\t"
        "mov r4, r8\n\tmov r5, r9\n\tmov r6, r10\n\tmov r7, r11\n\t"
        "push {r4-r7}\n\t"
        "ldmia r0!, {r3, r4, r5, r6}\n\t"
        "ldmia r0!, {r1, r2}\n\t"
        "mov r12, r2\n\t"
        "lsls r1, r1, #2\n\tadds r7, r3, r1\n\t"
        "push {r3}\n\t"
        "1:\n\t" /* a block */
        "ldmia r5!, {r0-r3}\n\t"
        "mov r8, r0\n\tmov r9, r1\n\tmov r10, r2\n\tmov r11, r3\n\t"
        "ldr r3, [sp, #0]\n\t"
        "2:\n\t" /* four values */
        ENGINE_LEAN_VALUE("0") ENGINE_LEAN_VALUE("1") ENGINE_LEAN_VALUE("2") ENGINE_LEAN_VALUE("3")
        "adds r3, r3, #4\n\tcmp r3, r7\n\tbne 2b\n\t"
        "mov r0, r8\n\tmov r1, r9\n\tmov r2, r10\n\tmov r3, r11\n\t"
        "stmia r6!, {r0-r3}\n\t"
        "mov r0, r12\n\tsubs r0, r0, #1\n\tmov r12, r0\n\tbne 1b\n\t"
        "pop {r3}\n\t"
        "pop {r4-r7}\n\t"
        "mov r8, r4\n\tmov r9, r5\n\tmov r10, r6\n\tmov r11, r7\n\t"
        "pop {r4-r7, pc}\n\t");
}

#else

/* No sum leaves 32 bits, as the generator has proven. */
#define ENGINE_LEAN_VALUE(at)                    \
    do {                                         \
        const int32_t value = values[at];        \
        first += value * weights[4 * (at)];      \
        second += value * weights[4 * (at) + 1]; \
        third += value * weights[4 * (at) + 2];  \
        fourth += value * weights[4 * (at) + 3]; \
    } while (0)

static void engine_lean_row(const engine_lean_row_t *row)
{
    const int8_t *weights = row->weights;
    const int32_t *bias = row->bias;
    for (int32_t *sums = row->sums, *last = sums + row->blocks * 4; sums != last; sums += 4) {
        int32_t first = bias[0], second = bias[1], third = bias[2], fourth = bias[3];
        for (const uint8_t *values = row->values, *end = values + row->quads * 4; values != end; values += 4) {
            ENGINE_LEAN_VALUE(0);
            ENGINE_LEAN_VALUE(1);
            ENGINE_LEAN_VALUE(2);
            ENGINE_LEAN_VALUE(3);
            weights += 16;
        }
        sums[0] = first;
        sums[1] = second;
        sums[2] = third;
        sums[3] = fourth;
        bias += 4;
    }
}

#endif

/* All channels of one row, some blocks at a time. */
static void engine_lean_channels(const engine_lean_fully_connected_t *layer, const uint8_t *values, int8_t *output)
{
    int32_t sums[ENGINE_LEAN_CHANNELS];
    engine_lean_row_t row = {values, layer->weights, layer->bias, sums, (layer->depth + 3) / 4, 0};
    for (int32_t channel = 0; channel < layer->out_c; channel += ENGINE_LEAN_CHANNELS) {
        const int32_t left = layer->out_c - channel, count = left < ENGINE_LEAN_CHANNELS ? left : ENGINE_LEAN_CHANNELS;
        row.blocks = (count + 3) / 4;
        engine_lean_row(&row);
        row.weights += row.quads * 4 * ENGINE_LEAN_CHANNELS;
        row.bias += ENGINE_LEAN_CHANNELS;
        for (int32_t at = 0; at < count; at++) {
            *output++ = (int8_t)(engine_lean_place(sums[at], layer->channels + channel + at) + layer->low);
        }
    }
}

void engine_lean_fully_connected(
    const engine_lean_fully_connected_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    uint8_t *values = (uint8_t *)scratch;
    for (int32_t row = 0; row < layer->rows; row++) {
        for (int32_t k = 0; k < layer->depth; k++) {
            values[k] = (uint8_t)(*input++ + 128);
        }
        engine_lean_channels(layer, values, output);
        output += layer->out_c;
    }
}
