static void engine_product_line(
    const engine_product_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t step_a = layer->pairs.step_a[4], step_b = layer->pairs.step_b[4], count = layer->pairs.size[4];
    for (int32_t i = 0; i < count; i++) {
        const int32_t product = (*a - layer->zero_a) * (*b - layer->zero_b);
        const int32_t value = engine_rescale(product, &layer->rescale, ENGINE_LONG);
        output[i] = (int8_t)engine_clamp(value, layer->low, layer->high);
        a += step_a;
        b += step_b;
    }
}

void engine_product(const engine_product_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const engine_pairs_t *pairs = &layer->pairs;
    const int32_t lines = engine_pairs_lines(pairs);
    for (int32_t line = 0; line < lines; line++) {
        engine_product_line(
            layer,
            a + engine_pairs_start(pairs->size, pairs->step_a, line),
            b + engine_pairs_start(pairs->size, pairs->step_b, line),
            output + line * pairs->size[4]);
    }
}
