/* First and last position of the kernel that fall inside of the input. */
static int32_t engine_depthwise_first(int32_t at, int32_t dilation)
{
    return at < 0 ? (dilation - 1 - at) / dilation : 0;
}

static int32_t engine_depthwise_end(int32_t at, int32_t dilation, int32_t size, int32_t kernel)
{
    const int32_t inside = at < size ? (size - at + dilation - 1) / dilation : 0;
    return inside < kernel ? inside : kernel;
}

/* One output pixel whose kernel begins at row y and column x of the input. */
static void engine_depthwise_pixel(
    const engine_depthwise_t *layer, const int8_t *input, int32_t y, int32_t x, int8_t *output)
{
    const int32_t out_c = layer->in_c * layer->multiplier;
    const int32_t first_y = engine_depthwise_first(y, layer->dilation_h);
    const int32_t first_x = engine_depthwise_first(x, layer->dilation_w);
    const int32_t end_y = engine_depthwise_end(y, layer->dilation_h, layer->in_h, layer->kernel_h);
    const int32_t end_x = engine_depthwise_end(x, layer->dilation_w, layer->in_w, layer->kernel_w);
    for (int32_t channel = 0; channel < out_c; channel++) {
        int32_t acc = layer->bias[channel];
        for (int32_t kernel_y = first_y; kernel_y < end_y; kernel_y++) {
            const int8_t *row = input + (y + kernel_y * layer->dilation_h) * layer->in_w * layer->in_c;
            const int8_t *weights = layer->weights + kernel_y * layer->kernel_w * out_c + channel;
            for (int32_t kernel_x = first_x; kernel_x < end_x; kernel_x++) {
                const int32_t at = (x + kernel_x * layer->dilation_w) * layer->in_c + channel / layer->multiplier;
                acc = engine_add(acc, (row[at] - layer->in_zero) * layer->in_scale * weights[kernel_x * out_c]);
            }
        }
        const int32_t value = engine_rescale(acc, layer->channels + channel, layer->form);
        output[channel] = (int8_t)engine_clamp(value, layer->low, layer->high);
    }
}

void engine_depthwise(const engine_depthwise_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t y = 0; y < layer->out_h; y++) {
        for (int32_t x = 0; x < layer->out_w; x++) {
            const int32_t top = y * layer->stride_h - layer->pad_h, left = x * layer->stride_w - layer->pad_w;
            engine_depthwise_pixel(layer, input, top, left, output);
            output += layer->in_c * layer->multiplier;
        }
    }
}
