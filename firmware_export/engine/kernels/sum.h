/* ADD and SUB: out = rescale(table_a[a] + table_b[b]); tables hold what TensorFlow Lite computes of each input, in the
   short forms of rescaling twice that. */
typedef struct {
    engine_pairs_t pairs;
    const int32_t *table_a; /* 256 entries, the first for -128 */
    const int32_t *table_b;
    engine_channel_t rescale;
    int32_t form; /* ENGINE_LONG, ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t low, high; /* fused activation */
} engine_sum_t;

void engine_sum(const engine_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output);
