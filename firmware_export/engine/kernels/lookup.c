static int32_t engine_lookup_index(int8_t value, int32_t flip)
{
    return (int32_t)((uint8_t)value ^ (uint32_t)(128 - flip));
}

void engine_lookup(const engine_lookup_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t i = 0; i < layer->count; i++) {
        const int8_t value = layer->table[engine_lookup_index(input[i], layer->in_flip)];
        output[i] = (int8_t)(value ^ layer->out_flip);
    }
}

void engine_to_float(const engine_to_float_t *layer, const int8_t *input, void *output)
{
    for (int32_t i = 0; i < layer->count; i++) {
        const float value = layer->table[engine_lookup_index(input[i], layer->in_flip)];
        (void)memcpy((char *)output + (size_t)i * sizeof value, &value, sizeof value);
    }
}

static int32_t engine_round(float value)
{
    if (!(value > -1000.0f)) {
        return value < 0.0f ? -1000 : 0;
    }
    if (value > 1000.0f) {
        return 1000;
    }
    const int32_t whole = (int32_t)value;
    const float rest = value - (float)whole;
    return whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0);
}

void engine_from_float(const engine_from_float_t *layer, const void *input, int8_t *output)
{
    for (int32_t i = 0; i < layer->count; i++) {
        float value;
        (void)memcpy(&value, (const char *)input + (size_t)i * sizeof value, sizeof value);
        output[i] = (int8_t)engine_clamp(engine_round(value / layer->scale) + layer->zero, INT8_MIN, INT8_MAX);
    }
}
