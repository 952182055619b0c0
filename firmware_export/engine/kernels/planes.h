/* Depthwise 3x3 convolution of int8 whose channels are a multiple of four: four channels at a time stand in the scratch
   as planes of int16, less the zero point and with a border of zeros. Short forms of rescaling only. */
typedef struct {
    const int16_t *weights; /* per channel for each of three rows twice the weights w0, w1, w1, w2 */
    const int32_t *bias;
    const engine_channel_t *channels;
    int32_t form; /* ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t low, high; /* fused activation */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w;
    int32_t stride_h, stride_w; /* stride_w is 1 or 2 */
    int32_t pad_h, pad_w;
    int32_t rows, pitch; /* of a plane; the pitch is even */
    int32_t in_zero;
} engine_planes_t;

/* scratch: 8 bytes for each of rows * pitch, aligned to 4. */
void engine_planes(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch);
