/* Fully connected layer of int8, over one row of values or several. */
typedef struct {
    const int8_t *weights; /* blocks of four channels: for each value four weights; values filled up to eights */
    const int32_t *bias;   /* filled up to a multiple of four */
    const engine_lean_channel_t *channels;
    int32_t rows, depth, out_c;
} engine_lean_fully_connected_t;

/* scratch: a row of values, filled up to eights. */
void engine_lean_fully_connected(
    const engine_lean_fully_connected_t *layer, const int8_t *input, int8_t *output, void *scratch);
