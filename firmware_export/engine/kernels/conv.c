/* Zeros for a run that lies outside of the input, which there equals its zero point. */
static engine_i16 *engine_conv_blank(engine_i16 *patch, int32_t count)
{
    for (int32_t k = 0; k < count; k += 4) {
        patch[0] = patch[1] = patch[4] = patch[5] = 0;
        patch += 8;
    }
    return patch;
}

/* A joined run that lies partly outside: value by value. */
static engine_i16 *engine_conv_cut(const engine_conv_t *layer, engine_i16 *patch, const int8_t *row, int32_t x)
{
    const int32_t count = layer->kernel_w * layer->in_c, first = x * layer->in_c, end = layer->in_w * layer->in_c;
    for (int32_t k = 0; k < count; k += 4) {
        for (int32_t lane = 0; lane < 4; lane++) {
            const int32_t at = first + k + lane;
            const int32_t inside = k + lane < count && at >= 0 && at < end;
            patch[(lane & 1) * 4 + lane / 2] = (int16_t)(inside ? row[at] - layer->in_zero : 0);
        }
        patch += 8;
    }
    return patch;
}

/* One row of the kernel, as one run or as a run for each of its pixels. */
static engine_i16 *engine_conv_row(
    const engine_conv_t *layer, engine_i16 *patch, const int8_t *row, int32_t x, int32_t depth)
{
    if (layer->joined) {
        if (x < 0 || x + layer->kernel_w > layer->in_w) {
            return engine_conv_cut(layer, patch, row, x);
        }
        return engine_unpack(patch, row + x * layer->in_c, layer->kernel_w * depth, layer->in_zero, 8);
    }
    for (int32_t kernel_x = 0; kernel_x < layer->kernel_w; kernel_x++) {
        if (x >= 0 && x < layer->in_w) {
            patch = engine_unpack(patch, row + x * layer->in_c, depth, layer->in_zero, 8);
        } else {
            patch = engine_conv_blank(patch, depth);
        }
        x += layer->dilation_w;
    }
    return patch;
}

/* The patch of one output pixel; `input` points at the group's first channel. */
static void engine_conv_patch(const engine_conv_t *layer, engine_i16 *patch, const int8_t *input, int32_t pixel)
{
    const int32_t depth = layer->in_c / layer->groups;
    const int32_t x = pixel % layer->out_w * layer->stride_w - layer->pad_w;
    int32_t y = pixel / layer->out_w * layer->stride_h - layer->pad_h;
    for (int32_t kernel_y = 0; kernel_y < layer->kernel_h; kernel_y++) {
        if (y >= 0 && y < layer->in_h) {
            patch = engine_conv_row(layer, patch, input + y * layer->in_w * layer->in_c, x, depth);
        } else if (layer->joined) {
            patch = engine_conv_blank(patch, layer->kernel_w * depth);
        } else {
            for (int32_t kernel_x = 0; kernel_x < layer->kernel_w; kernel_x++) {
                patch = engine_conv_blank(patch, depth);
            }
        }
        y += layer->dilation_h;
    }
}

/* `count` channels of one pixel, from accumulators to int8. */
static void engine_conv_store(
    const engine_conv_t *layer, const int32_t *acc, const engine_channel_t *channels, int32_t count, int8_t *output)
{
    for (int32_t channel = 0; channel < count; channel++) {
        const int32_t value = engine_rescale(acc[channel], channels + channel, layer->form);
        output[channel] = (int8_t)engine_clamp(value, layer->low, layer->high);
    }
}

/* All channels of one group for two pixels; `second` is 0 where there is only one. */
static void engine_conv_pixels(
    const engine_conv_t *layer, const engine_i16 *patches, int32_t group, int8_t *first, int8_t *second)
{
    const int32_t count = layer->out_c / layer->groups, blocks = (count + 3) / 4;
    for (int32_t block = 0; block < blocks; block++) {
        const int32_t at = (group * blocks + block) * 4, left = count - block * 4, used = left < 4 ? left : 4;
        int32_t acc[8];
        for (int32_t channel = 0; channel < 4; channel++) {
            acc[channel] = acc[4 + channel] = layer->bias[at + channel];
        }
        if (layer->wide) {
            engine_dot_2x4_int16(patches, (const int16_t *)layer->weights + at * layer->quads * 4, layer->quads, acc);
        } else {
            engine_dot_2x4_int8(patches, (const int8_t *)layer->weights + at * layer->quads * 4, layer->quads, acc);
        }
        engine_conv_store(layer, acc, layer->channels + at, used, first + block * 4);
        if (second) {
            engine_conv_store(layer, acc + 4, layer->channels + at, used, second + block * 4);
        }
    }
}

void engine_conv(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_i16 *patches = (engine_i16 *)scratch;
    const int32_t pixels = layer->out_h * layer->out_w;
    const int32_t depth = layer->in_c / layer->groups, count = layer->out_c / layer->groups;
    for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
        const int32_t pair = pixel + 1 < pixels;
        for (int32_t group = 0; group < layer->groups; group++) {
            int8_t *first = output + pixel * layer->out_c + group * count;
            engine_conv_patch(layer, patches, input + group * depth, pixel);
            engine_conv_patch(layer, patches + 2, input + group * depth, pixel + pair);
            engine_conv_pixels(layer, patches, group, first, pair ? first + layer->out_c : 0);
        }
    }
}
