/* Convolution of int8 in one group. */
typedef struct {
    const int8_t *weights; /* blocks of two channels: for each four values of an output four weights of
                              one, then of the other; none is -128 */
    const int32_t *bias;   /* filled up to an even number of channels */
    const engine_lean_channel_t *channels;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_h, pad_w;
    int32_t quads; /* of values that an output needs */
    int32_t in_zero;
} engine_lean_conv_t;

/* scratch: 16 bytes for each of `quads`, 16 for each two output channels, 1 for each input channel; aligned to 4. */
void engine_lean_conv(const engine_lean_conv_t *layer, const int8_t *input, int8_t *output, void *scratch);
