/* Depthwise 3x3 convolution of int8, one output channel per input channel, without dilation, in steps of one pixel or
   two: a few channels at a time as planes. Short forms of rescaling only. */
typedef struct {
    engine_plane_image_t image; /* of one phase */
    const int16_t *weights; /* per channel for each of three lines w0, w1, w1, w2, scaled as the sums are */
    const int32_t *bias;
    const engine_channel_t *channels;
    int32_t common; /* 1: all channels shift by ENGINE_PLANE_SHIFT, in place of their own shifts */
    int32_t low, high; /* fused activation */
    int32_t group;  /* channels at a time, up to 4 */
    int32_t stride; /* 1 or 2 */
    int32_t out_lines, out_places;
    int32_t out_line, out_place; /* bytes from line to line, from place to place */
} engine_planes_t;

/* scratch: for each channel of a group 4 bytes for each pair of places in each line, aligned to 4. */
void engine_planes(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch);
