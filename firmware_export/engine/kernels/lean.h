/* Kernels for cores without DSP instructions: values and weights stay int8, the input's zero point is part of the bias.

   How a sum becomes an output: the bias is such that a sum of 0 or less gives the smallest output and one of `limit` or
   more the largest; what is between them is multiplied in three parts, none of which leaves 32 bits. The generator
   has proven for each channel that all sums give what both roundings of TensorFlow Lite give. */
typedef struct {
    uint32_t limit; /* largest sum that counts, in the upper 24 bits; below them the last shift */
    uint32_t mantissa; /* below 2^31 */
    uint32_t addend;
    uint32_t pivot; /* in the upper 24 bits: smaller sums are negative without what the bias adds to them, and their
                       halves round the other way; below them the smallest output, as int8 */
} engine_lean_channel_t;

/* The output for a sum. */
static inline int32_t engine_lean_output(int32_t sum, const engine_lean_channel_t *channel)
{
#if ENGINE_THUMB1
    uint32_t last, total, part;
    __asm__(
        ".syntax unified\n\t"
        "asrs %1, %0, #31\n\tbics %0, %0, %1\n\t"
        "ldr %1, [%4, #0]\n\tlsrs %2, %1, #8\n\tcmp %0, %2\n\tbls 1f\n\tmovs %0, %2\n\t"
        "1:\n\t"
        "ldr %3, [%4, #4]\n\t"
        "lsls %2, %3, #21\n\tlsrs %2, %2, #21\n\tmuls %2, %2, %0\n\tlsrs %2, %2, #11\n\t"
        "lsls %3, %3, #10\n\tlsrs %3, %3, #21\n\tmuls %3, %3, %0\n\tadds %2, %2, %3\n\t"
        "ldr %3, [%4, #8]\n\tadds %2, %2, %3\n\tlsrs %2, %2, #11\n\t"
        "ldr %3, [%4, #4]\n\tlsrs %3, %3, #22\n\tmuls %3, %3, %0\n\tadds %2, %2, %3\n\t"
        "ldr %3, [%4, #12]\n\tlsrs %3, %3, #8\n\tcmp %0, %3\n\tbhs 2f\n\t"
        "movs %3, #128\n\tlsls %3, %3, #2\n\tsubs %2, %2, %3\n\t"
        "2:\n\t"
        "lsrs %2, %2, %1\n\t" /* by the lowest byte */
        "ldr %3, [%4, #12]\n\tsxtb %3, %3\n\tadds %2, %2, %3\n\t"
        : "+l"(sum), "=&l"(last), "=&l"(total), "=&l"(part)
        : "l"(channel), "m"(*channel)
        : "cc");
    return (int32_t)total;
#else
    const uint32_t last = channel->limit, mantissa = channel->mantissa;
    const uint32_t raised = sum < 0 ? 0 : (uint32_t)sum, limit = last >> 8;
    const uint32_t x = raised > limit ? limit : raised;
    uint32_t total = x * (mantissa & 2047u) >> 11;
    total = (total + x * (mantissa >> 11 & 2047u) + channel->addend) >> 11;
    total += x * (mantissa >> 22);
    if (x < channel->pivot >> 8) {
        total -= 512;
    }
    return (int32_t)(total >> (last & 31u)) + (int8_t)(channel->pivot & 255u);
#endif
}
