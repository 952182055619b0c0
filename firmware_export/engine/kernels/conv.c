/* Often only a few bytes. */
static inline void engine_conv_copy(int8_t *to, const int8_t *from, int32_t count)
{
    if (count > 32) {
        (void)memcpy(to, from, (size_t)count);
        return;
    }
    const int8_t *end = from + count;
    for (const int8_t *words = from + (count & ~3); from != words; from += 4) {
        (void)memcpy(to, from, 4);
        to += 4;
    }
    while (from != end) {
        *to++ = *from++;
    }
}

static inline void engine_conv_blank(int8_t *patch, int32_t zero, int32_t quads)
{
    const uint32_t zeros = (uint8_t)zero * 0x1010101u;
    if (quads > 16) {
        (void)memset(patch, zero, (size_t)quads * 4u);
        return;
    }
    for (const int8_t *end = patch + quads * 4; patch != end; patch += 4) {
        (void)memcpy(patch, &zeros, 4);
    }
}

/* One row of the kernel, whose first pixel is at column x. */
static void engine_conv_gather_row(
    const engine_conv_t *layer, int8_t *patch, const int8_t *row, int32_t x, int32_t depth)
{
    for (int32_t kernel_x = 0; kernel_x < layer->kernel_w; kernel_x++) {
        if (x >= 0 && x < layer->in_w) {
            engine_conv_copy(patch, row + x * layer->in_c, depth);
        }
        patch += (depth + 3) & ~3;
        x += layer->dilation_w;
    }
}

/* The values of a patch that begins at row y, column x, as bytes in their order, runs filled up to quads. What lies
   outside of the input equals its zero point; `input` points at the group's first channel. */
static void engine_conv_gather(
    const engine_conv_t *layer, int8_t *patch, const int8_t *input, int32_t y, int32_t x)
{
    const int32_t depth = layer->groups == 1 ? layer->in_c : layer->in_c / layer->groups;
    const int32_t past = x + layer->kernel_w, first = x < 0 ? 0 : x, end = past < layer->in_w ? past : layer->in_w;
    engine_conv_blank(patch, layer->in_zero, layer->quads);
    for (int32_t kernel_y = 0; kernel_y < layer->kernel_h; kernel_y++) {
        if (y >= 0 && y < layer->in_h) {
            const int8_t *row = input + y * layer->in_w * layer->in_c;
            if (!layer->joined) {
                engine_conv_gather_row(layer, patch, row, x, depth);
            } else if (first < end) {
                engine_conv_copy(patch + (first - x) * depth, row + first * depth, (end - first) * depth);
            }
        }
        patch += layer->row_quads * 4;
        y += layer->dilation_h;
    }
}

/* Where the next output pixel's patch begins. */
typedef struct {
    int32_t y, x;
    int32_t left; /* output pixels to the end of the row */
    int32_t inside; /* patches of this row that begin at columns from 0 on, below this one, are in memory as they are */
} engine_conv_place_t;

/* How many patches of a row lie inside of the input, quads behind their last runs included. */
static int32_t engine_conv_inside(const engine_conv_t *layer, int32_t y)
{
    const int32_t bottom = y + (layer->kernel_h - 1) * layer->dilation_h;
    if (!layer->joined || y < 0 || bottom >= layer->in_h) {
        return 0;
    }
    int32_t inside = layer->in_w - layer->kernel_w + 1;
    while (inside > 0 &&
           (bottom * layer->in_w + inside - 1) * layer->in_c + layer->row_quads * 4 >
               layer->in_h * layer->in_w * layer->in_c) {
        inside--;
    }
    return inside;
}

static void engine_conv_start(const engine_conv_t *layer, engine_conv_place_t *place, int32_t y)
{
    place->y = y;
    place->x = -layer->pad_w;
    place->left = layer->out_w;
    place->inside = engine_conv_inside(layer, y);
}

static inline void engine_conv_step(const engine_conv_t *layer, engine_conv_place_t *place)
{
    place->x += layer->stride_w;
    place->left--;
    if (place->left == 0) {
        engine_conv_start(layer, place, place->y + layer->stride_h);
    }
}

/* The patch at a place: in the input, or 0 where it is not there as it is. */
static inline const int8_t *engine_conv_find(
    const engine_conv_t *layer, const engine_conv_place_t *place, const int8_t *input)
{
    const int32_t found = place->x >= 0 && place->x < place->inside;
    return found ? input + (place->y * layer->in_w + place->x) * layer->in_c : 0;
}

/* Patches of `count` output pixels from a place on; `room` is for two patches of int8. */
static void engine_conv_patches(
    const engine_conv_t *layer, engine_i16 *patches, int8_t *room, const int8_t *input, engine_conv_place_t *place,
    int32_t count)
{
    const uint32_t zeros = (uint32_t)(uint16_t)-layer->in_zero * 0x10001u;
    const engine_rows_t rows = {
        layer->kernel_h, layer->row_quads, layer->dilation_h * layer->in_w * layer->in_c, zeros};
    const engine_rows_t gathered = {1, layer->quads, 0, zeros};
    for (int32_t pixel = 0; pixel < count; pixel += 2) {
        const engine_conv_place_t one = *place;
        const int8_t *first = engine_conv_find(layer, place, input), *second = first;
        engine_conv_place_t other = one;
        engine_conv_step(layer, place);
        if (pixel + 1 < count) {
            other = *place;
            second = engine_conv_find(layer, place, input);
            engine_conv_step(layer, place);
        }
        if (first && second) {
            engine_unpack_pair(patches, first, second, &rows);
        } else {
            engine_conv_gather(layer, room, input, one.y, one.x);
            engine_conv_gather(layer, room + layer->quads * 4, input, other.y, other.x);
            engine_unpack_pair(patches, room, room + layer->quads * 4, &gathered);
        }
        patches += layer->quads * 8;
    }
}

/* Kernels of one pixel that step from pixel to pixel, a multiple of four channels: patches are rows of two pixels. */
static void engine_conv_pixels(const engine_conv_t *layer, engine_i16 *patches, const int8_t *input, int32_t count)
{
    const uint32_t zeros = (uint32_t)(uint16_t)-layer->in_zero * 0x10001u;
    engine_rows_t rows = {count / 2, layer->quads, 2 * layer->in_c, zeros};
    if (count > 1) {
        engine_unpack_pair(patches, input, input + layer->in_c, &rows);
    }
    if (count & 1) {
        rows.rows = 1;
        input += (count - 1) * layer->in_c;
        engine_unpack_pair(patches + count / 2 * layer->quads * 8, input, input, &rows);
    }
}

/* What the blocks of a group have in common for all patches. */
static engine_tiles_t engine_conv_group(const engine_conv_t *layer, int32_t group, const int32_t *weights, void *scratch)
{
    const int32_t fixed = layer->form == ENGINE_FIXED, count = layer->out_c / layer->groups;
    const int32_t words = layer->quads * (layer->wide ? 4 : 2) + (fixed ? 8 : 10);
    const engine_tiles_t pairs = {
        (engine_i16 *)scratch,
        0,
        layer->out_c,
        0,
        0,
        weights + group * ((count + 1) / 2) * words,
        layer->quads,
        count / 2,
        layer->wide ? 0 : (int32_t *)scratch + layer->pairs * layer->quads * 4,
        fixed ? (uint8_t)layer->offset * 0x1010101u : layer->low > INT8_MIN || layer->high < INT8_MAX,
        (uint8_t)layer->low * 0x1010101u,
        (uint8_t)layer->high * 0x1010101u,
    };
    return pairs;
}

/* The last channel of a group that has an odd number of them. */
static void engine_conv_last(const engine_conv_t *layer, const engine_tiles_t *pairs, int8_t *output, int32_t count)
{
    const int32_t words = layer->quads * (layer->wide ? 4 : 2) + (layer->form == ENGINE_FIXED ? 8 : 10);
    int8_t outputs[4];
    engine_tiles_t last = *pairs;
    last.output = outputs;
    last.pitch = 2;
    last.odd = 0;
    last.weights += pairs->blocks * words;
    last.blocks = 1;
    output += pairs->blocks * 2;
    for (int32_t pixel = 0; pixel < count; pixel += 2) {
        last.end = last.patches + layer->quads * 8;
        engine_tiles(&last, layer->form);
        output[0] = outputs[0];
        if (pixel + 1 < count) {
            output[layer->out_c] = outputs[2];
        }
        last.patches = last.end;
        output += 2 * layer->out_c;
    }
}

/* All channels of one group for `count` patches. */
static void engine_conv_multiply(const engine_conv_t *layer, const engine_tiles_t *group, int8_t *output, int32_t count)
{
    engine_tiles_t pairs = *group;
    pairs.output = output;
    pairs.end = pairs.patches + count / 2 * layer->quads * 8;
    pairs.odd = (count & 1) * layer->quads * 16;
    if (count == 1) {
        pairs.end = pairs.patches + layer->quads * 8;
        pairs.odd = 0;
        pairs.pitch = 0;
    }
    if (pairs.blocks) {
        engine_tiles(&pairs, layer->form);
    }
    if ((layer->groups == 1 ? layer->out_c : layer->out_c / layer->groups) & 1) {
        engine_conv_last(layer, group, output, count);
    }
}

void engine_conv(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    const int32_t pixels = layer->out_h * layer->out_w, most = layer->pairs * 2;
    const int32_t strides = layer->stride_h * layer->stride_w * layer->groups;
    const int32_t pointwise = layer->kernel_h * layer->kernel_w * strides == 1 && layer->in_c % 4 == 0;
    engine_i16 *patches = (engine_i16 *)scratch;
    int8_t *room = (int8_t *)scratch + most * layer->quads * 8;
    for (int32_t number = 0; number < layer->groups; number++) {
        const engine_tiles_t group = engine_conv_group(layer, number, layer->weights, scratch);
        int8_t *to = output + number * (layer->out_c / layer->groups);
        const int8_t *from = input + number * (layer->in_c / layer->groups);
        engine_conv_place_t place;
        engine_conv_start(layer, &place, -layer->pad_h);
        for (int32_t pixel = 0; pixel < pixels; pixel += most) {
            const int32_t count = pixels - pixel < most ? pixels - pixel : most;
            if (pointwise) {
                engine_conv_pixels(layer, patches, from + pixel * layer->in_c, count);
            } else {
                engine_conv_patches(layer, patches, room, from, &place, count);
            }
            engine_conv_multiply(layer, &group, to + pixel * layer->out_c, count);
        }
    }
}
