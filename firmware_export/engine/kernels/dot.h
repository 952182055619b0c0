/* Products of patches and blocks of weights.
   A patch holds for each four values (k0, k1, k2, k3): k0, k2, k1, k3 as int16, where DSP instructions find them after
   unpacking bytes; two patches stand side by side: k0, k2 of the first, k0, k2 of the second, k1, k3 of both.
   A block of weights holds for each four values of a patch four channels: as int8 k0, k1, k2, k3 of each channel; as
   int16 k0, k2 of each channel, then k1, k3 of each channel. */

/* acc[0..3] and acc[4..7]: the channels' sums over the first and the second patch, added to what is there. */
void engine_dot_2x4_int8(const engine_i16 *patches, const int8_t *weights, int32_t quads, int32_t *acc);
void engine_dot_2x4_int16(const engine_i16 *patches, const int16_t *weights, int32_t quads, int32_t *acc);

/* acc[0..3]: the channels' sums over one patch. */
void engine_dot_1x4_int8(const engine_i16 *patch, const int8_t *weights, int32_t quads, int32_t *acc);
void engine_dot_1x4_int16(const engine_i16 *patch, const int16_t *weights, int32_t quads, int32_t *acc);

/* Write `count` values less `zero` as a patch; `step` is 4, or 8 for one of two patches side by side. The last quad is
   filled up with zeros. Returns where the next run begins. */
engine_i16 *engine_unpack(engine_i16 *patch, const int8_t *values, int32_t count, int32_t zero, int32_t step);
