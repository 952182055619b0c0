/* MUL: out = rescale((a - zero_a) * (b - zero_b)). */
typedef struct {
    engine_pairs_t pairs;
    engine_channel_t rescale; /* in the form LONG */
    int32_t zero_a, zero_b;
    int32_t low, high; /* fused activation */
} engine_product_t;

void engine_product(const engine_product_t *layer, const int8_t *a, const int8_t *b, int8_t *output);
