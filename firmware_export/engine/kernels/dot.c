/* One patch and four channels, in plain C: the place of k1, k3 is half a quad of patches further. */
static void engine_dot_int8(const engine_i16 *patch, int32_t step, const int8_t *weights, int32_t quads, int32_t *acc)
{
    const int32_t half = step / 2;
    for (int32_t quad = 0; quad < quads; quad++) {
        for (int32_t channel = 0; channel < 4; channel++) {
            const int32_t sum = patch[0] * weights[0] + patch[half] * weights[1] + patch[1] * weights[2]
                                + patch[half + 1] * weights[3];
            acc[channel] = engine_add(acc[channel], sum);
            weights += 4;
        }
        patch += step;
    }
}

static void engine_dot_int16(const engine_i16 *patch, int32_t step, const int16_t *weights, int32_t quads, int32_t *acc)
{
    const int32_t half = step / 2;
    for (int32_t quad = 0; quad < quads; quad++) {
        for (int32_t channel = 0; channel < 4; channel++) {
            const int32_t sum = patch[0] * weights[0] + patch[1] * weights[1] + patch[half] * weights[8]
                                + patch[half + 1] * weights[9];
            acc[channel] = engine_add(acc[channel], sum);
            weights += 2;
        }
        weights += 8;
        patch += step;
    }
}

void engine_dot_2x4_int8(const engine_i16 *patches, const int8_t *weights, int32_t quads, int32_t *acc)
{
    engine_dot_int8(patches, 8, weights, quads, acc);
    engine_dot_int8(patches + 2, 8, weights, quads, acc + 4);
}

void engine_dot_2x4_int16(const engine_i16 *patches, const int16_t *weights, int32_t quads, int32_t *acc)
{
    engine_dot_int16(patches, 8, weights, quads, acc);
    engine_dot_int16(patches + 2, 8, weights, quads, acc + 4);
}

void engine_dot_1x4_int8(const engine_i16 *patch, const int8_t *weights, int32_t quads, int32_t *acc)
{
    engine_dot_int8(patch, 4, weights, quads, acc);
}

void engine_dot_1x4_int16(const engine_i16 *patch, const int16_t *weights, int32_t quads, int32_t *acc)
{
    engine_dot_int16(patch, 4, weights, quads, acc);
}

engine_i16 *engine_unpack(engine_i16 *patch, const int8_t *values, int32_t count, int32_t zero, int32_t step)
{
    const int32_t half = step / 2;
    int32_t k = 0;
    for (; k + 4 <= count; k += 4) {
        patch[0] = (int16_t)(values[k] - zero);
        patch[1] = (int16_t)(values[k + 2] - zero);
        patch[half] = (int16_t)(values[k + 1] - zero);
        patch[half + 1] = (int16_t)(values[k + 3] - zero);
        patch += step;
    }
    if (k < count) {
        patch[0] = (int16_t)(values[k] - zero);
        patch[1] = (int16_t)(k + 2 < count ? values[k + 2] - zero : 0);
        patch[half] = (int16_t)(k + 1 < count ? values[k + 1] - zero : 0);
        patch[half + 1] = 0;
        patch += step;
    }
    return patch;
}
