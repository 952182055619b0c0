/* Average and maximum over windows; what lies outside of the input does not count. */
typedef struct {
    int32_t in_h, in_w, channels;
    int32_t out_h, out_w;
    int32_t window_h, window_w;
    int32_t stride_h, stride_w;
    int32_t pad_h, pad_w;
    int32_t low, high; /* fused activation */
} engine_pool_t;

void engine_average_pool(const engine_pool_t *layer, const int8_t *input, int8_t *output);
void engine_max_pool(const engine_pool_t *layer, const int8_t *input, int8_t *output);
