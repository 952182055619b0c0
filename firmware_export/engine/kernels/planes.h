/* Depthwise 3x3 convolution of int8 whose channels are a multiple of four: four channels at a time stand in the scratch
   as planes of int16, less the zero point and with a border of zeros. Lines are rows of the image or columns of it:
   long lines cost less. Short forms of rescaling only. */
typedef struct {
    const int16_t *weights; /* per channel for each of three lines twice the weights w0, w1, w1, w2 */
    const int32_t *bias;
    const engine_channel_t *channels;
    int32_t form; /* ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t low, high; /* fused activation */
    int32_t depth;     /* channels */
    int32_t in_lines, in_places; /* places: pixels of a line */
    int32_t in_line, in_place;   /* bytes from line to line, from place to place */
    int32_t out_lines, out_places;
    int32_t out_line, out_place;
    int32_t line_stride, place_stride; /* place_stride is 1 or 2 */
    int32_t line_pad, place_pad;
    int32_t lines, pitch; /* of a plane; the pitch is even */
    int32_t in_zero;
} engine_planes_t;

/* scratch: 8 bytes for each of lines * pitch, aligned to 4. */
void engine_planes(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch);
