/* Depthwise 3x3 convolution of int8, one output for each input: one channel at a time stands in the scratch as a plane,
   with a border that equals the input's zero point. */
typedef struct {
    const int8_t *weights; /* nine for each channel */
    const int32_t *bias;
    const engine_lean_channel_t *channels;
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w;
    int32_t stride_h, stride_w;
    int32_t pad_h, pad_w;
    int32_t lines, pitch; /* of the plane */
    int32_t in_zero;
} engine_lean_depthwise_t;

/* scratch: 4 bytes for each of lines * pitch, aligned to 4. */
void engine_lean_depthwise(const engine_lean_depthwise_t *layer, const int8_t *input, int8_t *output, void *scratch);
