/* Both tensors step by step, in a short form; a POSITIVE one may be computed as SIGNED, as the clamp hides the
   difference. */
static void engine_sum_short(const engine_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t *table_a = layer->table_a + 128, *table_b = layer->table_b + 128;
    const int32_t mantissa = layer->rescale.mantissa, addend = layer->rescale.addend, shift = layer->rescale.shift;
    const int32_t low = layer->low, high = layer->high;
    const int8_t *end = output + layer->pairs.size[4];
    while (output != end) {
        const int32_t sum = table_a[*a++] + table_b[*b++];
        const int32_t value = engine_high(sum, mantissa, addend + (sum >> 31)) >> shift;
        *output++ = (int8_t)engine_clamp(value, low, high);
    }
}

/* The same without a fused activation. */
static void engine_sum_plain(const engine_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t *table_a = layer->table_a + 128, *table_b = layer->table_b + 128;
    const int32_t mantissa = layer->rescale.mantissa, addend = layer->rescale.addend, shift = layer->rescale.shift;
    const int8_t *end = output + layer->pairs.size[4];
    while (output != end) {
        const int32_t sum = table_a[*a++] + table_b[*b++];
        *output++ = (int8_t)engine_saturate(engine_high(sum, mantissa, addend + (sum >> 31)) >> shift);
    }
}

static void engine_sum_line(const engine_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const int32_t step_a = layer->pairs.step_a[4], step_b = layer->pairs.step_b[4], count = layer->pairs.size[4];
    const int32_t *table_a = layer->table_a + 128, *table_b = layer->table_b + 128;
    if (layer->form != ENGINE_LONG && step_a == 1 && step_b == 1) {
        if (layer->low == INT8_MIN && layer->high == INT8_MAX) {
            engine_sum_plain(layer, a, b, output);
        } else {
            engine_sum_short(layer, a, b, output);
        }
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        const int32_t value = engine_rescale(table_a[*a] + table_b[*b], &layer->rescale, layer->form);
        output[i] = (int8_t)engine_clamp(value, layer->low, layer->high);
        a += step_a;
        b += step_b;
    }
}

void engine_sum(const engine_sum_t *layer, const int8_t *a, const int8_t *b, int8_t *output)
{
    const engine_pairs_t *pairs = &layer->pairs;
    const int32_t lines = engine_pairs_lines(pairs);
    for (int32_t line = 0; line < lines; line++) {
        engine_sum_line(
            layer,
            a + engine_pairs_start(pairs->size, pairs->step_a, line),
            b + engine_pairs_start(pairs->size, pairs->step_b, line),
            output + line * pairs->size[4]);
    }
}
