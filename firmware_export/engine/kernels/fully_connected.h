/* Fully connected layer of int8, over one row of values or several.
   Weights are blocks of words for four channels: bias; for each four values k0..k3 of a row as int16 k0, k2 of each
   channel, then k1, k3 of each channel, or as int8 one word of each; rescaling as in tiles.h. Rows are filled up to a
   multiple of eight values.
   Words of int8 weights are read as they are: two int16 of 256 * odd + even, whose low bytes are the even weights.
   With u = 127 - odd value,
       sum(-u * (256 * odd + even)) + sum((256 * even value + u) * even) = 256 * (sum of products - 127 * sum(odd)),
   where all factors are int16; the bias has the rest, and all sums are taken times 256. */
typedef struct {
    const int32_t *weights;
    int32_t wide; /* 1: weights are int16, else int8 */
    int32_t form; /* ENGINE_LONG, only of int16, ENGINE_POSITIVE, ENGINE_SIGNED or ENGINE_FIXED */
    int32_t offset; /* of ENGINE_FIXED */
    int32_t low, high; /* fused activation */
    int32_t rows, depth, out_c;
    int32_t in_zero;
} engine_fully_connected_t;

/* scratch: 16 bytes for each eight values of a row, aligned to 4. */
void engine_fully_connected(const engine_fully_connected_t *layer, const int8_t *input, int8_t *output, void *scratch);
