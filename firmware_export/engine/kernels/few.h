/* Convolution over 8 or 12 values in two or three runs of four bytes or in one run, a multiple of four channels, one
   group, form ENGINE_FIXED: a patch stays in registers while it meets the channels.
   Weights are words for each channel: of 8 values bias, mantissa, addend and four words of int16, as patches of tiles.h
   have them; of 12 bias, four words of int16, two more, mantissa, addend. As int8 they are bias, mantissa, addend and
   the values in their order.
   scratch: 16 bytes, and where weights are int8 4 * (3 + 2 * quads) for each channel; aligned to 4. */
void engine_conv_few(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch);
