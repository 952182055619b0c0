static void engine_fully_connected_blocks(int32_t wide, const engine_blocks_t *blocks)
{
    if (wide) {
        engine_row_int16(blocks);
    } else {
        engine_row_int8(blocks);
    }
}

/* All channels of one row; the last block may have fewer than four. */
static void engine_fully_connected_row(
    const engine_fully_connected_t *layer, const engine_blocks_t *common, int8_t *output)
{
    const int32_t done = common->blocks * 4, left = layer->out_c - done;
    engine_blocks_t blocks = *common;
    blocks.first = output;
    if (done) {
        engine_fully_connected_blocks(layer->wide, &blocks);
    }
    if (left) {
        int8_t last[4];
        blocks.weights = (const int8_t *)common->weights + done * common->quads * (layer->wide ? 8 : 4);
        blocks.bias = common->bias + done;
        blocks.channels = common->channels + done;
        blocks.first = last;
        blocks.blocks = 1;
        engine_fully_connected_blocks(layer->wide, &blocks);
        (void)memcpy(output + done, last, (size_t)left);
    }
}

void engine_fully_connected(const engine_fully_connected_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_i16 *patch = (engine_i16 *)scratch;
    const engine_blocks_t common = {
        patch,
        layer->weights,
        layer->bias,
        layer->channels,
        0,
        0,
        layer->out_c / 4,
        (layer->depth + 3) / 4,
        (uint8_t)layer->low * 0x1010101u,
        (uint8_t)layer->high * 0x1010101u,
        layer->low > INT8_MIN || layer->high < INT8_MAX,
        layer->form,
    };
    for (int32_t row = 0; row < layer->rows; row++) {
        (void)engine_unpack(patch, input + row * layer->depth, layer->depth, layer->in_zero, layer->in_scale, 4);
        engine_fully_connected_row(layer, &common, output + row * layer->out_c);
    }
}
