/* Fully connected layer of int8, over one row of values or several. */
typedef struct {
    const void *weights; /* blocks of four channels, see dot.h */
    const int32_t *bias; /* one per channel, filled up to a multiple of four */
    const engine_channel_t *channels; /* filled up in the same way */
    int32_t wide; /* 1: weights are int16, else int8 */
    int32_t form; /* ENGINE_LONG, ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t in_scale; /* 2 where the short forms' double sums come from the input, else 1 */
    int32_t low, high; /* fused activation */
    int32_t rows, depth, out_c;
    int32_t in_zero;
} engine_fully_connected_t;

/* scratch: 8 bytes for each four values of a row, aligned to 4. */
void engine_fully_connected(const engine_fully_connected_t *layer, const int8_t *input, int8_t *output, void *scratch);
