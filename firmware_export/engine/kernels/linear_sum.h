/* ADD and SUB: out = (offset + factor_a * a / 256 + factor_b * b / 256) >> 21, each division rounded down: the same as
   TensorFlow Lite's roundings, where the generator has compared all 65,536 pairs of values. */
typedef struct {
    engine_pairs_t pairs;
    int32_t factor_a, factor_b, offset;
    int32_t low, high; /* fused activation */
} engine_linear_sum_t;

enum { ENGINE_LINEAR_SHIFT = 21 };

void engine_linear_sum(const engine_linear_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output);
