/* Convolution of int8, also in groups. */
typedef struct {
    const void *weights; /* blocks of four channels, see dot.h */
    const int32_t *bias; /* one per channel, each group filled up to a multiple of four */
    const engine_channel_t *channels; /* filled up in the same way */
    int32_t wide; /* 1: weights are int16, else int8 */
    int32_t form; /* ENGINE_LONG, ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t in_scale; /* 2 where the short forms' double sums come from the input, else 1 */
    int32_t low, high; /* fused activation */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_h, pad_w;
    int32_t groups;
    int32_t joined; /* 1: the pixels of one row of the kernel are neighbours in memory and make one run */
    int32_t quads;  /* quads of values in a patch; each run is filled up to a multiple of four */
    int32_t row_quads; /* of one row of the kernel */
    int32_t in_zero;
} engine_conv_t;

/* The same for a step of one pixel along rows, no dilation along them, one group and input channels in fours. What
   neighbouring patches share is unpacked once for a row of outputs; weights are ordered by columns of the kernel first.
   scratch: 16 bytes for each of out_w + kernel_w times quads / kernel_w, aligned to 4. */
void engine_conv_columns(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch);

/* scratch: 16 bytes for each of `quads`, aligned to 4. */
void engine_conv(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch);
