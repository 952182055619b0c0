/* Channels whose sums stand on the stack. */
enum { ENGINE_LEAN_CHANNELS = 32 };

/* Blocks of four channels over one row. The order of members is known to the assembly. */
typedef struct {
    const uint8_t *values; /* plus 128 */
    const int8_t *weights;
    const int32_t *bias;
    int32_t *sums;
    int32_t eights; /* of values */
    int32_t blocks; /* at least 1 */
} engine_lean_row_t;

#if ENGINE_THUMB1

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
        "lsls r1, r1, #3\n\tadds r7, r3, r1\n\t"
        "push {r3}\n\t"
        "1:\n\t" /* a block */
        "ldmia r5!, {r0-r3}\n\t"
        "mov r8, r0\n\tmov r9, r1\n\tmov r10, r2\n\tmov r11, r3\n\t"
        "ldr r3, [sp, #0]\n\t"
        "2:\n\t" /* eight values */
        ENGINE_LEAN_VALUE("0") ENGINE_LEAN_VALUE("1") ENGINE_LEAN_VALUE("2") ENGINE_LEAN_VALUE("3")
        ENGINE_LEAN_VALUE("4") ENGINE_LEAN_VALUE("5") ENGINE_LEAN_VALUE("6") ENGINE_LEAN_VALUE("7")
        "adds r3, r3, #8\n\tcmp r3, r7\n\tbeq 3f\n\tb 2b\n\t" /* out of a conditional branch's reach */
        "3:\n\t"
        "mov r0, r8\n\tmov r1, r9\n\tmov r2, r10\n\tmov r3, r11\n\t"
        "stmia r6!, {r0-r3}\n\t"
        "mov r0, r12\n\tsubs r0, r0, #1\n\tmov r12, r0\n\tbeq 4f\n\tb 1b\n\t"
        "4:\n\t"
        "pop {r3}\n\t"
        "pop {r4-r7}\n\t"
        "mov r8, r4\n\tmov r9, r5\n\tmov r10, r6\n\tmov r11, r7\n\t"
        "pop {r4-r7, pc}\n\t");
}

#else

/* A value times one weight of each channel of two blocks; no sum leaves 32 bits, as the generator has proven. */
#define ENGINE_LEAN_VALUE(at)              \
    do {                                   \
        const int32_t value = values[at];  \
        a += value * weights[4 * (at)];     \
        b += value * weights[4 * (at) + 1]; \
        c += value * weights[4 * (at) + 2]; \
        d += value * weights[4 * (at) + 3]; \
        e += value * second[4 * (at)];      \
        f += value * second[4 * (at) + 1];  \
        g += value * second[4 * (at) + 2];  \
        h += value * second[4 * (at) + 3];  \
    } while (0)

/* Two blocks at a time; `far` is the second one's distance, 0 where there is none and the first is computed twice. */
static void engine_lean_blocks(const engine_lean_row_t *row, const int8_t *weights, int32_t far, int32_t block)
{
    const int32_t *bias = row->bias + block * 4, *other = far ? bias + 4 : bias;
    int32_t *sums = row->sums + block * 4;
    int32_t a = bias[0], b = bias[1], c = bias[2], d = bias[3], e = other[0], f = other[1], g = other[2], h = other[3];
    const int8_t *second = weights + far;
    for (const uint8_t *values = row->values, *end = values + row->eights * 8; values != end; values += 8) {
        ENGINE_LEAN_VALUE(0);
        ENGINE_LEAN_VALUE(1);
        ENGINE_LEAN_VALUE(2);
        ENGINE_LEAN_VALUE(3);
        ENGINE_LEAN_VALUE(4);
        ENGINE_LEAN_VALUE(5);
        ENGINE_LEAN_VALUE(6);
        ENGINE_LEAN_VALUE(7);
        weights += 32;
        second += 32;
    }
    sums[0] = a;
    sums[1] = b;
    sums[2] = c;
    sums[3] = d;
    if (far) {
        sums[4] = e;
        sums[5] = f;
        sums[6] = g;
        sums[7] = h;
    }
}

static void engine_lean_row(const engine_lean_row_t *row)
{
    const int32_t size = row->eights * 32;
    for (int32_t block = 0; block < row->blocks; block += 2) {
        engine_lean_blocks(row, row->weights + block * size, block + 1 < row->blocks ? size : 0, block);
    }
}

#endif

/* All channels of one row, some at a time. */
static void engine_lean_channels(const engine_lean_fully_connected_t *layer, const uint8_t *values, int8_t *output)
{
    const engine_lean_channel_t *channel = layer->channels;
    const int8_t *end = output + layer->out_c;
    int32_t sums[ENGINE_LEAN_CHANNELS];
    engine_lean_row_t row = {values, layer->weights, layer->bias, sums, (layer->depth + 7) / 8, 0};
    while (output != end) {
        const int32_t left = (int32_t)(end - output), count = left < ENGINE_LEAN_CHANNELS ? left : ENGINE_LEAN_CHANNELS;
        row.blocks = (count + 3) / 4;
        engine_lean_row(&row);
        for (const int32_t *sum = sums, *last = sums + count; sum != last; sum++) {
            *output++ = (int8_t)engine_lean_output(*sum, channel);
            channel++;
        }
        row.weights += row.eights * 8 * ENGINE_LEAN_CHANNELS;
        row.bias += ENGINE_LEAN_CHANNELS;
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
