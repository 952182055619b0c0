static void engine_move_line(const engine_move_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t in_step = layer->in_step[4], out_step = layer->out_step[4];
    if (in_step == 1 && out_step == 1) {
        (void)memcpy(output, input, (size_t)layer->size[4]);
        return;
    }
    for (int32_t i = 0; i < layer->size[4]; i++) {
        output[i * out_step] = input[i * in_step];
    }
}

void engine_move(const engine_move_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t lines = layer->size[0] * layer->size[1] * layer->size[2] * layer->size[3];
    for (int32_t line = 0; line < lines; line++) {
        int32_t rest = line, in_at = layer->in_start, out_at = layer->out_start;
        for (int32_t axis = 3; axis >= 0; axis--) {
            const int32_t index = rest % layer->size[axis];
            in_at += index * layer->in_step[axis];
            out_at += index * layer->out_step[axis];
            rest /= layer->size[axis];
        }
        engine_move_line(layer, input + in_at, output + out_at);
    }
}

void engine_fill(const engine_fill_t *layer, int8_t *output)
{
    (void)memset(output, layer->value, (size_t)layer->count);
}

void engine_resize(const engine_resize_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t y = 0; y < layer->out_h; y++) {
        const int8_t *row = input + layer->rows[y] * layer->in_w * layer->channels;
        for (int32_t x = 0; x < layer->out_w; x++) {
            (void)memcpy(output, row + layer->columns[x] * layer->channels, (size_t)layer->channels);
            output += layer->channels;
        }
    }
}
