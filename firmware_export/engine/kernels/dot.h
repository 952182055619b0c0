/* Products of patches and blocks of weights.
   A patch holds for each four values (k0, k1, k2, k3): k0, k2, k1, k3 as int16, where DSP instructions find them after
   unpacking bytes; two patches stand side by side: k0, k2 of the first, k0, k2 of the second, k1, k3 of both.
   A block of weights holds for each four values of a patch four channels: as int8 k0, k1, k2, k3 of each channel; as
   int16 k0, k2 of each channel, then k1, k3 of each channel. */

/* All blocks of four channels of one layer or group. The order of members is known to the assembly. */
typedef struct {
    const engine_i16 *patches;
    const void *weights;
    const int32_t *bias;
    const engine_channel_t *channels;
    int8_t *first;  /* output of the first patch */
    int8_t *second; /* of the second one; where it is the same place, the first patch has it */
    int32_t blocks; /* at least 1 */
    int32_t quads;
    uint32_t low;   /* fused activation, four times the same byte */
    uint32_t high;
    int32_t clamped; /* 0 where low and high are int8's own limits */
    int32_t form;   /* ENGINE_LONG, ENGINE_POSITIVE or ENGINE_SIGNED */
} engine_blocks_t;

/* One patch, four channels at a time: sums, rescaled and stored; `second` is not used. */
void engine_row_int8(const engine_blocks_t *blocks);
void engine_row_int16(const engine_blocks_t *blocks);

/* Write `count` values, less `zero` and times `scale` (1 or 2), as a patch; `step` is 4, or 8 for one of two patches
   side by side. The last quad is filled up with zeros. Returns where the next run begins. */
engine_i16 *engine_unpack(
    engine_i16 *patch, const int8_t *values, int32_t count, int32_t zero, int32_t scale, int32_t step);
