/* Images of int8 as planes, one per channel: words of two neighbouring places, each an int16 less the zero point, and
   zeros around the image. Lines are rows of the image or columns of it, places are the pixels of a line.
   A plane holds pair of places after pair of places; of each pair the lines 0, phases, 2 * phases and so on, then the
   lines 1, phases + 1 and so on. */
typedef struct {
    int32_t depth; /* channels */
    int32_t in_lines, in_places;
    int32_t in_line, in_place; /* bytes from line to line, from place to place */
    int32_t line_pad, place_pad;
    int32_t pairs, phases, lines; /* of a plane; lines of each phase */
    int32_t in_zero;
} engine_plane_image_t;

/* Write the image into the planes of up to four neighbouring channels, leaving what is around it. */
void engine_plane_fill(const engine_plane_image_t *image, engine_i16 *planes, const int8_t *input, int32_t channels);
