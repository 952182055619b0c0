/* Convolution three columns wide, by steps of one pixel along rows: F(2, 3) of Winograd, exactly.
   Two outputs beside each other need four products instead of six. With input columns d0..d3 and weights g0..g2 of one
   row and channel
       m1 = (d1 + d2) (g0 + g1 + g2) / 2    m2 = (d2 - d1) (g0 - g1 + g2) / 2    m0 = (d0 - d2) g0    m3 = (d1 - d3) (-g2)
   the outputs are m0 + m1 + m2 and m1 - m2 + m3. Weights are doubled, which makes the halves whole and the sums twice
   the convolution's, as the short forms take them. Sums are exact modulo 2^32, and the outputs' sums are within.
   One group, no dilation along rows, input channels in fours, output columns in fours, output channels even, not
   ENGINE_LONG. A block of weights are words for two channels as in tiles.h: bias, weights of m1, m2, m0, rescaling,
   weights of m3, rescaling. `quads` are those of one of m0..m3, `pairs` tiles of four output pixels at a time.
   Of int8 a block is the bias, a word with the number of bits in its low bytes by which doubled weights of each channel
   are shifted to the left, for each quad and channel g0, g1, g2 of four values each, and rescaling once; the blocks
   above are made of it first of all.
   scratch: where weights are int8 the blocks of int16; 64 bytes for each of `quads` and `pairs`; then 6 columns of the
   kernel's rows; aligned to 4. */
void engine_conv_winograd(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch);
