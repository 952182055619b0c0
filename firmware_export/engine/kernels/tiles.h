/* Products of pairs of patches and pairs of channels: convolutions.
   A patch holds for each four values (k0, k1, k2, k3): k0, k2, k1, k3 as int16, where DSP instructions find them after
   unpacking bytes; two patches stand side by side: k0, k2 of the first, k0, k2 of the second, k1, k3 of both.
   A block of weights is a stream of words for two channels: four words of bias (both channels, twice); for each four
   values of a patch as int16 k0, k2 of both channels, then k1, k3 of both, or as int8 k0, k1, k2, k3 of each; mantissa
   and addend of each channel, and but for ENGINE_FIXED shift. Bytes of words stand as on a little-endian core. */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights are for a little-endian core"
#endif

/* Forms beside those of core.h. FIXED: (acc * mantissa / 2^32 + addend) >> ENGINE_SHIFT, divisions rounded down,
   brought into int8, and `offset` added and brought into int8 again. Sums of int8 weights are taken times
   2^ENGINE_EXPANDED. */
enum { ENGINE_FIXED = 3, ENGINE_SHIFT = 12, ENGINE_EXPANDED = 8 };

/* All blocks of one layer or group, over patches that follow each other by pairs. The order is known to the assembly. */
typedef struct {
    const engine_i16 *patches;
    int8_t *output; /* of the first patch */
    int32_t pitch;  /* from a patch's output to the next one's; 0: the second patch of a pair is none */
    const engine_i16 *end; /* of the pairs */
    int32_t odd;    /* bytes of one more pair whose second patch is none, else 0 */
    const int32_t *weights;
    int32_t quads;  /* of values in a patch */
    int32_t blocks; /* at least 1 */
    int32_t *expanded; /* room for one block of int16 where weights are int8, else 0 */
    uint32_t offset; /* ENGINE_FIXED: four times the same byte; otherwise whether low and high are not int8's own */
    uint32_t low;   /* fused activation, four times the same byte */
    uint32_t high;
} engine_tiles_t;

void engine_tiles(const engine_tiles_t *pairs, int32_t form);

/* Values in memory that make up a patch. */
typedef struct {
    int32_t rows;
    int32_t quads; /* of a row, at least 1 */
    int32_t step;  /* bytes from a row to the next one */
    uint32_t zeros; /* the zero point with its sign changed, twice as int16 */
} engine_rows_t;

/* Write patches side by side, which begin at `first` and `second`. */
void engine_unpack_pair(engine_i16 *patches, const int8_t *first, const int8_t *second, const engine_rows_t *rows);
