/* Depthwise convolution of int8 with any kernel, stride, dilation and multiplier, a few channels at a time as planes.
   Short forms of rescaling only.
   Two neighbouring outputs read the same pairs of places: for each pair, weights (a0, a1) of the first output and
   (b0, b1) of the second one, zeros where they do not reach. Per channel: pairs of places, phases of lines, lines. */
typedef struct {
    engine_plane_image_t image;
    const int16_t *weights; /* a0, a1, b0, b1 */
    const int32_t *bias;
    const engine_channel_t *channels;
    int32_t common; /* 1: all channels shift by ENGINE_PLANE_SHIFT, in place of their own shifts */
    int32_t low, high; /* fused activation */
    int32_t group; /* input channels at a time, up to 4 */
    int32_t band;  /* lines of outputs at a time; all of them where the output lies over the input */
    int32_t times; /* output channels per input channel */
    int32_t columns; /* pairs of places times phases that an output reads */
    int32_t rows;    /* lines of each of them, up to 8 */
    int32_t place_stride;
    int32_t out_lines, out_places;
    int32_t out_line, out_place; /* bytes from line to line, from place to place */
} engine_planes_any_t;

/* scratch: for each channel of a group 4 bytes for each pair of places in each line of each phase, aligned to 4. */
void engine_planes_any(const engine_planes_any_t *layer, const int8_t *input, int8_t *output, void *scratch);
