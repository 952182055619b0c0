/* Functions of one int8, uint8 or, at the rim, float. `flip` is 128 where a side is uint8, whose bytes it turns into
   int8 or back; else 0. */
typedef struct {
    const int8_t *table; /* 256 entries, the first for -128 */
    int32_t count;
    int32_t in_flip, out_flip;
} engine_lookup_t;

/* DEQUANTIZE. */
typedef struct {
    const float *table;
    int32_t count;
    int32_t in_flip;
} engine_to_float_t;

/* QUANTIZE: round(value / scale) + zero, halves away from zero. What is not a number becomes the zero point. */
typedef struct {
    float scale;
    int32_t zero;
    int32_t count;
} engine_from_float_t;

void engine_lookup(const engine_lookup_t *layer, const int8_t *input, int8_t *output);
void engine_to_float(const engine_to_float_t *layer, const int8_t *input, void *output);
void engine_from_float(const engine_from_float_t *layer, const void *input, int8_t *output);
