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
            patch[(lane & 1) * 4 + lane / 2] = (int16_t)(inside ? (row[at] - layer->in_zero) * layer->in_scale : 0);
        }
        patch += 8;
    }
    return patch;
}

/* A run for each pixel of one row of the kernel; `depth` values of a pixel belong to the group. */
static engine_i16 *engine_conv_row(
    const engine_conv_t *layer, engine_i16 *patch, const int8_t *row, int32_t x, int32_t depth)
{
    for (int32_t kernel_x = 0; kernel_x < layer->kernel_w; kernel_x++) {
        if (x >= 0 && x < layer->in_w) {
            patch = engine_unpack(patch, row + x * layer->in_c, depth, layer->in_zero, layer->in_scale, 8);
        } else {
            patch = engine_conv_blank(patch, depth);
        }
        x += layer->dilation_w;
    }
    return patch;
}

/* One row of the kernel as one run. The last quad may hold values behind the run, whose weights are 0, as long as
   they are the input's, which has `left` values from `row` on. Whole pixels outside of the input are blank where they
   fill quads. */
static engine_i16 *engine_conv_joined(
    const engine_conv_t *layer, engine_i16 *patch, const int8_t *row, int32_t x, int32_t left)
{
    const int32_t over = x + layer->kernel_w - layer->in_w, before = x < 0 ? -x : 0, after = over > 0 ? over : 0;
    if (before + after == 0) {
        const int32_t first = x * layer->in_c, count = layer->kernel_w * layer->in_c, filled = (count + 3) & ~3;
        const int32_t used = first + filled <= left ? filled : count;
        return engine_unpack(patch, row + first, used, layer->in_zero, layer->in_scale, 8);
    }
    if (layer->in_c % 4 || before + after >= layer->kernel_w) {
        return engine_conv_cut(layer, patch, row, x);
    }
    const int32_t count = (layer->kernel_w - before - after) * layer->in_c;
    patch = engine_conv_blank(patch, before * layer->in_c);
    patch = engine_unpack(patch, row + (x + before) * layer->in_c, count, layer->in_zero, layer->in_scale, 8);
    return engine_conv_blank(patch, after * layer->in_c);
}

#if ENGINE_DSP
/* Rows of the kernel that lie inside of the input, each one run; the last quad of a run may hold values behind it. */
static inline void engine_conv_rows(
    const engine_conv_t *layer, engine_i16 *patch, const int8_t *from, uint32_t zeros, int32_t twice)
{
    const int32_t step = layer->dilation_h * layer->in_w * layer->in_c;
    for (int32_t row = layer->kernel_h; row > 0; row--) {
        const int8_t *values = from, *end = from + layer->row_quads * 4;
        if (layer->row_quads & 1) {
            engine_unpack_quad(patch, patch + 4, values, zeros, twice);
            values += 4;
            patch += 8;
        }
        while (values != end) {
            engine_unpack_quad(patch, patch + 4, values, zeros, twice);
            engine_unpack_quad(patch + 8, patch + 12, values + 4, zeros, twice);
            values += 8;
            patch += 16;
        }
        from += step;
    }
}

static void engine_conv_inside(const engine_conv_t *layer, engine_i16 *patch, const int8_t *from)
{
    const uint32_t zeros = (uint32_t)(uint16_t)-layer->in_zero * 0x10001u;
    if (layer->in_scale == 1) {
        engine_conv_rows(layer, patch, from, zeros, 0);
    } else {
        engine_conv_rows(layer, patch, from, zeros, 1);
    }
}

/* Whether a patch that begins at row y, column x lies inside of the input, quads behind its last run included. */
static int32_t engine_conv_is_inside(const engine_conv_t *layer, int32_t y, int32_t x)
{
    const int32_t bottom = y + (layer->kernel_h - 1) * layer->dilation_h;
    if (!layer->joined || y < 0 || x < 0 || bottom >= layer->in_h || x + layer->kernel_w > layer->in_w) {
        return 0;
    }
    const int32_t end = (bottom * layer->in_w + x) * layer->in_c + layer->row_quads * 4;
    return end <= layer->in_h * layer->in_w * layer->in_c;
}
#endif

/* The patch of one output pixel that begins at row y, column x; `input` points at the group's first channel. */
static void engine_conv_patch(
    const engine_conv_t *layer, engine_i16 *patch, const int8_t *input, int32_t y, int32_t x)
{
    const int32_t pitch = layer->in_w * layer->in_c;
#if ENGINE_DSP
    if (engine_conv_is_inside(layer, y, x)) {
        engine_conv_inside(layer, patch, input + y * pitch + x * layer->in_c);
        return;
    }
#endif
    const int32_t depth = layer->in_c / layer->groups;
    for (int32_t kernel_y = 0; kernel_y < layer->kernel_h; kernel_y++) {
        if (y < 0 || y >= layer->in_h) {
            patch = engine_conv_blank(patch, layer->row_quads * 4);
        } else if (layer->joined) {
            patch = engine_conv_joined(layer, patch, input + y * pitch, x, (layer->in_h - y) * pitch);
        } else {
            patch = engine_conv_row(layer, patch, input + y * pitch, x, depth);
        }
        y += layer->dilation_h;
    }
}

/* What the blocks of a group have in common for all pixels. */
static engine_blocks_t engine_conv_group(const engine_conv_t *layer, const engine_i16 *patches, int32_t group)
{
    const int32_t count = layer->out_c / layer->groups, at = group * ((count + 3) / 4) * 4;
    const engine_blocks_t blocks = {
        patches,
        (const int8_t *)layer->weights + at * layer->quads * (layer->wide ? 8 : 4),
        layer->bias + at,
        layer->channels + at,
        0,
        0,
        count / 4,
        layer->quads,
        (uint8_t)layer->low * 0x1010101u,
        (uint8_t)layer->high * 0x1010101u,
        layer->low > INT8_MIN || layer->high < INT8_MAX,
        layer->form,
    };
    return blocks;
}

static void engine_conv_blocks(int32_t wide, const engine_blocks_t *blocks)
{
    if (wide) {
        engine_blocks_int16(blocks);
    } else {
        engine_blocks_int8(blocks);
    }
}

/* The last block of a group, which has fewer than four channels. */
static void engine_conv_last(
    const engine_conv_t *layer, const engine_blocks_t *group, int32_t left, int8_t *first, int8_t *second)
{
    const int32_t done = group->blocks * 4;
    int8_t outputs[2][4];
    engine_blocks_t last = *group;
    last.weights = (const int8_t *)group->weights + done * layer->quads * (layer->wide ? 8 : 4);
    last.bias += done;
    last.channels += done;
    last.first = outputs[0];
    last.second = outputs[1];
    last.blocks = 1;
    engine_conv_blocks(layer->wide, &last);
    (void)memcpy(second + done, outputs[1], (size_t)left);
    (void)memcpy(first + done, outputs[0], (size_t)left);
}

/* All channels of one group for two pixels, which may be the same one. */
static void engine_conv_pixels(const engine_conv_t *layer, engine_blocks_t *group, int8_t *first, int8_t *second)
{
    const int32_t left = (layer->groups == 1 ? layer->out_c : layer->out_c / layer->groups) & 3;
    if (group->blocks) {
        group->first = first;
        group->second = second;
        engine_conv_blocks(layer->wide, group);
    }
    if (left) {
        engine_conv_last(layer, group, left, first, second);
    }
}

static void engine_conv_point(const engine_conv_t *layer, engine_i16 *patch, const int8_t *input)
{
#if ENGINE_DSP
    if (layer->in_c % 4 == 0) {
        engine_conv_inside(layer, patch, input);
        return;
    }
#endif
    (void)engine_unpack(patch, input, layer->in_c, layer->in_zero, layer->in_scale, 8);
}

/* Kernels of one pixel that step from pixel to pixel: the patch is the pixel. */
static void engine_conv_pointwise(const engine_conv_t *layer, const int8_t *input, int8_t *output, engine_i16 *patches)
{
    const int32_t pixels = layer->out_h * layer->out_w;
    engine_blocks_t group = engine_conv_group(layer, patches, 0);
    for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
        const int32_t step = pixel + 1 < pixels;
        engine_conv_point(layer, patches, input);
        engine_conv_point(layer, patches + 2, input + step * layer->in_c);
        engine_conv_pixels(layer, &group, output, output + step * layer->out_c);
        input += 2 * layer->in_c;
        output += 2 * layer->out_c;
    }
}

/* Where the patch of an output pixel begins. */
static void engine_conv_pixel(
    const engine_conv_t *layer, engine_i16 *patch, const int8_t *input, int32_t pixel)
{
    const int32_t y = pixel / layer->out_w, x = pixel - y * layer->out_w;
    engine_conv_patch(layer, patch, input, y * layer->stride_h - layer->pad_h, x * layer->stride_w - layer->pad_w);
}

void engine_conv(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_i16 *patches = (engine_i16 *)scratch;
    const int32_t pixels = layer->out_h * layer->out_w;
    const int32_t depth = layer->in_c / layer->groups, count = layer->out_c / layer->groups;
    if (layer->kernel_h * layer->kernel_w * layer->stride_h * layer->stride_w * layer->groups == 1) {
        engine_conv_pointwise(layer, input, output, patches);
        return;
    }
    for (int32_t number = 0; number < layer->groups; number++) {
        engine_blocks_t group = engine_conv_group(layer, patches, number);
        for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
            const int32_t next = pixel + 1 < pixels ? pixel + 1 : pixel;
            engine_conv_pixel(layer, patches, input, pixel);
            engine_conv_pixel(layer, patches + 2, input, next);
            engine_conv_pixels(layer, &group, output + pixel * layer->out_c, output + next * layer->out_c);
        }
        input += depth;
        output += count;
    }
}

/* Values of one pixel, as the first patch of a slot and as the second patch of the slot before. */
static inline void engine_conv_slot(
    const engine_conv_t *layer, engine_i16 *slot, engine_i16 *before, const int8_t *values, int32_t twice)
{
    const int8_t *end = values + layer->in_c;
#if ENGINE_DSP
    const uint32_t zeros = (uint32_t)(uint16_t)-layer->in_zero * 0x10001u;
#else
    (void)twice;
#endif
    while (values != end) {
#if ENGINE_DSP
        engine_unpack_quad(slot, slot + 4, values, zeros, twice);
#else
        (void)engine_unpack(slot, values, 4, layer->in_zero, layer->in_scale, 8);
#endif
        (void)memcpy(before + 2, slot, 4);
        (void)memcpy(before + 6, slot + 4, 4);
        values += 4;
        slot += 8;
        before += 8;
    }
}

/* One column of the input, from row y on, `size` values to a slot. */
static void engine_conv_column(
    const engine_conv_t *layer, engine_i16 *slot, int32_t size, const int8_t *input, int32_t y, int32_t x)
{
    const int32_t step = layer->in_c * 2;
    for (int32_t kernel_y = 0; kernel_y < layer->kernel_h; kernel_y++) {
        if (x < 0 || x >= layer->in_w || y < 0 || y >= layer->in_h) {
            (void)engine_conv_blank(slot, layer->in_c);
            (void)engine_conv_blank(slot - size + 2, layer->in_c);
        } else if (layer->in_scale == 1) {
            engine_conv_slot(layer, slot, slot - size, input + (y * layer->in_w + x) * layer->in_c, 0);
        } else {
            engine_conv_slot(layer, slot, slot - size, input + (y * layer->in_w + x) * layer->in_c, 1);
        }
        slot += step;
        y += layer->dilation_h;
    }
}

void engine_conv_columns(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t size = layer->quads / layer->kernel_w * 8;
    engine_i16 *slots = (engine_i16 *)scratch + size;
    engine_blocks_t group = engine_conv_group(layer, slots, 0);
    for (int32_t y = 0; y < layer->out_h; y++) {
        const int32_t top = y * layer->stride_h - layer->pad_h;
        for (int32_t column = 0; column < layer->out_w + layer->kernel_w - 1; column++) {
            engine_conv_column(layer, slots + column * size, size, input, top, column - layer->pad_w);
        }
        for (int32_t x = 0; x < layer->out_w; x += 2) {
            group.patches = slots + x * size;
            engine_conv_pixels(layer, &group, output, x + 1 < layer->out_w ? output + layer->out_c : output);
            output += x + 1 < layer->out_w ? 2 * layer->out_c : layer->out_c;
        }
    }
}
