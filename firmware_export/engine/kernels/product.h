/* MUL: out = rescale((a - zero_a) * (b - zero_b)), in the short forms of rescaling twice that. */
typedef struct {
    engine_pairs_t pairs;
    engine_channel_t rescale;
    int32_t form; /* ENGINE_LONG, ENGINE_POSITIVE or ENGINE_SIGNED */
    int32_t zero_a, zero_b;
    int32_t low, high; /* fused activation */
} engine_product_t;

void engine_product(const engine_product_t *layer, const int8_t *a, const int8_t *b, int8_t *output);
