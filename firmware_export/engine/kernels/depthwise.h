/* Depthwise convolution of int8, each input channel giving `multiplier` output channels. */
typedef struct {
    const int8_t *weights; /* kernel_h x kernel_w x out_c */
    const int32_t *bias;
    const engine_channel_t *channels;
    int32_t wide; /* 0: weights are int8 */
    int32_t form; /* ENGINE_LONG, ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t in_scale; /* 2 where the short forms' double sums come from the input, else 1 */
    int32_t low, high; /* fused activation */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, multiplier;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_h, pad_w;
    int32_t in_zero;
} engine_depthwise_t;

void engine_depthwise(const engine_depthwise_t *layer, const int8_t *input, int8_t *output);
