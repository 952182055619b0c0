/* ADD and SUB of tensors of the same shape: out = (table_a[a] + table_b[b]) >> shift, brought into low to high. The
   tables hold what each input adds to the output, zero points and halves among it. */
typedef struct {
    const int32_t *table_a; /* 256 entries, the first for -128 */
    const int32_t *table_b;
    int32_t count;
    int32_t shift;
    int32_t low, high;
} engine_lean_sum_t;

void engine_lean_sum(const engine_lean_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output);
