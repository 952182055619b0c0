static void engine_fully_connected_row(const engine_fully_connected_t *layer, const engine_i16 *patch, int8_t *output)
{
    const int32_t quads = (layer->depth + 3) / 4;
    for (int32_t at = 0; at < layer->out_c; at += 4) {
        int32_t acc[4] = {layer->bias[at], layer->bias[at + 1], layer->bias[at + 2], layer->bias[at + 3]};
        if (layer->wide) {
            engine_dot_int16(patch, (const int16_t *)layer->weights + at * quads * 4, quads, acc);
        } else {
            engine_dot_int8(patch, (const int8_t *)layer->weights + at * quads * 4, quads, acc);
        }
        for (int32_t channel = 0; channel < 4 && at + channel < layer->out_c; channel++) {
            const int32_t value = engine_rescale(acc[channel], layer->channels + at + channel, layer->form);
            output[at + channel] = (int8_t)engine_clamp(value, layer->low, layer->high);
        }
    }
}

void engine_fully_connected(const engine_fully_connected_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_i16 *patch = (engine_i16 *)scratch;
    for (int32_t row = 0; row < layer->rows; row++) {
        (void)engine_unpack(patch, input + row * layer->depth, layer->depth, layer->in_zero, layer->in_scale, 4);
        engine_fully_connected_row(layer, patch, output + row * layer->out_c);
    }
}
