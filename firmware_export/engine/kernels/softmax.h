/* SOFTMAX of rows of int8, its exponentials from a table. */
typedef struct {
    const int32_t *exponentials; /* Q0.31, of the differences 0..255 to a row's maximum */
    int32_t rows, depth;
} engine_softmax_t;

void engine_softmax(const engine_softmax_t *layer, const int8_t *input, int8_t *output);
