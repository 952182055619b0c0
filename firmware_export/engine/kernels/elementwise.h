/* Operators of two int8 tensors, each broadcast by steps of 0: the output's last dimension is the innermost loop. */
typedef struct {
    int32_t size[5];
    int32_t step_a[5];
    int32_t step_b[5];
} engine_pairs_t;

/* ADD and SUB: out = rescale(table_a[a] + table_b[b]); tables hold what TensorFlow Lite computes of each input, in the
   short forms of rescaling twice that. */
typedef struct {
    engine_pairs_t pairs;
    const int32_t *table_a; /* 256 entries, the first for -128 */
    const int32_t *table_b;
    engine_channel_t rescale;
    int32_t form; /* ENGINE_LONG, ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t low, high;
} engine_sum_t;

typedef struct {
    engine_pairs_t pairs;
    engine_channel_t rescale; /* in the form LONG */
    int32_t zero_a, zero_b;
    int32_t low, high;
} engine_product_t;

void engine_sum(const engine_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output);
void engine_product(const engine_product_t *layer, const int8_t *a, const int8_t *b, int8_t *output);
