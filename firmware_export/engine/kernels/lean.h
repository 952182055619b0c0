/* Kernels for cores without DSP instructions: values and weights stay int8, the input's zero point is part of the bias.

   How a sum becomes an output: the bias is such that a sum of 0 or less gives the smallest output and one of `limit`
   or more the largest; what is between them is multiplied in three parts, none of which leaves 32 bits. The generator
   has proven for each channel that all sums give what both roundings of TensorFlow Lite give. */
typedef struct {
    uint32_t limit;    /* largest sum that counts, below 2^20, in the upper 24 bits; below them the last shift */
    uint32_t mantissa; /* below 2^31 */
    uint32_t addend;
    int32_t pivot;     /* sums below it are negative ones without their offset, whose halves round the other way */
} engine_lean_channel_t;

/* The place of a sum among the outputs, 0 for the smallest. */
static inline int32_t engine_lean_place(int32_t sum, const engine_lean_channel_t *channel)
{
    const uint32_t last = channel->limit, mantissa = channel->mantissa;
    const uint32_t raised = sum < 0 ? 0 : (uint32_t)sum, limit = last >> 8;
    const uint32_t x = raised > limit ? limit : raised;
    uint32_t total = x * (mantissa & 2047u) >> 11;
    total = (total + x * (mantissa >> 11 & 2047u) + channel->addend) >> 11;
    total += x * (mantissa >> 22);
    if ((int32_t)x < channel->pivot) {
        total -= 512;
    }
    return (int32_t)(total >> (last & 31u));
}
