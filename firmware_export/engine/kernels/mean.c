static int32_t engine_mean_sum(const engine_mean_t *layer, const int8_t *input)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < layer->summed[0]; i++) {
        for (int32_t j = 0; j < layer->summed[1]; j++) {
            const int8_t *line = input + i * layer->summed_step[0] + j * layer->summed_step[1];
            for (int32_t k = 0; k < layer->summed[2]; k++) {
                sum += line[k * layer->summed_step[2]];
            }
        }
    }
    return sum;
}

/* Channels in fours that are neighbours in memory, means over pixels. */
static void engine_mean_fours(const engine_mean_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t channel = 0; channel < layer->kept[2]; channel += 4) {
        int32_t sums[4] = {-layer->offset, -layer->offset, -layer->offset, -layer->offset};
        for (int32_t i = 0; i < layer->summed[1]; i++) {
            engine_add_fours(
                sums, input + i * layer->summed_step[1] + channel, layer->summed[2], layer->summed_step[2]);
        }
        for (int32_t i = 0; i < 4; i++) {
            const int32_t mean = engine_rescale(sums[i], &layer->rescale, ENGINE_LONG);
            output[channel + i] = (int8_t)engine_saturate(mean);
        }
    }
}

void engine_mean(const engine_mean_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t outer = layer->kept[0] * layer->kept[1] * layer->summed[0];
    if (outer == 1 && layer->kept_step[2] == 1 && layer->kept[2] % 4 == 0) {
        engine_mean_fours(layer, input, output);
        return;
    }
    for (int32_t i = 0; i < layer->kept[0]; i++) {
        for (int32_t j = 0; j < layer->kept[1]; j++) {
            const int8_t *line = input + i * layer->kept_step[0] + j * layer->kept_step[1];
            for (int32_t k = 0; k < layer->kept[2]; k++) {
                const int32_t sum = engine_mean_sum(layer, line + k * layer->kept_step[2]) - layer->offset;
                *output++ = (int8_t)engine_clamp(engine_rescale(sum, &layer->rescale, ENGINE_LONG), INT8_MIN, INT8_MAX);
            }
        }
    }
}
