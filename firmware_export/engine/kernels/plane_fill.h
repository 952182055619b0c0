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

/* With a common shift an output is ((sum * mantissa) / 2^32 + addend) >> 10, both rounded down. */
enum { ENGINE_PLANE_SHIFT = 10 };

#if !ENGINE_DSP
/* A sum in the output's scale; negative sums of a POSITIVE form may end as SIGNED ones, for both are clamped away. */
static inline int8_t engine_plane_rescale(const engine_channel_t *channel, int32_t sum, int32_t common)
{
    if (common) {
        const int32_t high = (int32_t)(((int64_t)sum * channel->mantissa) >> 32);
        return (int8_t)engine_saturate((high + channel->addend) >> ENGINE_PLANE_SHIFT);
    }
    return (int8_t)engine_saturate(engine_rescale(sum, channel, ENGINE_SIGNED));
}
#endif
