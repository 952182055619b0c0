void engine_lean_sum(const engine_lean_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t *table_a = layer->table_a + 128, *table_b = layer->table_b + 128;
    const int32_t shift = layer->shift, low = layer->low, high = layer->high;
    const int8_t *end = output + layer->count;
    while (output != end) {
        *output++ = (int8_t)engine_clamp((table_a[*a++] + table_b[*b++]) >> shift, low, high);
    }
}
