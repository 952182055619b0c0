/* One channel of the input, as far as the outputs need it. */
static void engine_lean_plane(const engine_lean_depthwise_t *layer, int32_t *plane, const int8_t *input)
{
    const int32_t columns = layer->pitch - layer->pad_w, rows = layer->lines - layer->pad_h, step = layer->in_c;
    const int32_t width = layer->in_w < columns ? layer->in_w : columns;
    const int32_t height = layer->in_h < rows ? layer->in_h : rows;
    int32_t *line = plane + layer->pad_h * layer->pitch + layer->pad_w;
    for (int32_t y = 0; y < height; y++) {
        const int8_t *from = input + y * layer->in_w * step;
        for (int32_t *to = line, *end = line + width; to != end; to++) {
            *to = *from;
            from += step;
        }
        line += layer->pitch;
    }
}

/* One line of outputs of a channel. */
static void engine_lean_line(
    const engine_lean_depthwise_t *layer, const int32_t *top, const int32_t *weights,
    const engine_lean_channel_t *channel, int8_t *output)
{
    const int32_t pitch = layer->pitch, step = layer->stride_w, next = layer->in_c;
    const int32_t *end = top + layer->out_w * step;
    while (top != end) {
        const int32_t *middle = top + pitch, *bottom = middle + pitch;
        const int32_t sum = weights[9] + top[0] * weights[0] + top[1] * weights[1] + top[2] * weights[2]
            + middle[0] * weights[3] + middle[1] * weights[4] + middle[2] * weights[5]
            + bottom[0] * weights[6] + bottom[1] * weights[7] + bottom[2] * weights[8];
        *output = (int8_t)engine_lean_output(sum, channel);
        output += next;
        top += step;
    }
}

void engine_lean_depthwise(const engine_lean_depthwise_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    int32_t *plane = (int32_t *)scratch;
    for (int32_t place = 0; place < layer->lines * layer->pitch; place++) {
        plane[place] = layer->in_zero;
    }
    for (int32_t channel = 0; channel < layer->in_c; channel++) {
        const engine_lean_channel_t one = layer->channels[channel];
        int32_t weights[10];
        for (int32_t k = 0; k < 9; k++) {
            weights[k] = layer->weights[channel * 9 + k];
        }
        weights[9] = layer->bias[channel];
        engine_lean_plane(layer, plane, input + channel);
        for (int32_t y = 0; y < layer->out_h; y++) {
            const int32_t *top = plane + y * layer->stride_h * layer->pitch;
            engine_lean_line(layer, top, weights, &one, output + channel + y * layer->out_w * layer->in_c);
        }
    }
}
