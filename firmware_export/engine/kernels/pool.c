/* The part of a window that lies inside of the input. */
typedef struct {
    int32_t top, bottom, left, right;
} engine_window_t;

static engine_window_t engine_pool_window(const engine_pool_t *layer, int32_t out_y, int32_t out_x)
{
    const int32_t y = out_y * layer->stride_h - layer->pad_h, x = out_x * layer->stride_w - layer->pad_w;
    const int32_t bottom = y + layer->window_h, right = x + layer->window_w;
    const engine_window_t window = {
        y < 0 ? 0 : y,
        bottom > layer->in_h ? layer->in_h : bottom,
        x < 0 ? 0 : x,
        right > layer->in_w ? layer->in_w : right,
    };
    return window;
}

static int32_t engine_pool_sum(const engine_pool_t *layer, engine_window_t window, const int8_t *input)
{
    int32_t sum = 0;
    for (int32_t y = window.top; y < window.bottom; y++) {
        for (int32_t x = window.left; x < window.right; x++) {
            sum += input[(y * layer->in_w + x) * layer->channels];
        }
    }
    return sum;
}

static int8_t engine_pool_mean(const engine_pool_t *layer, int32_t sum, int32_t count)
{
    const int32_t mean = (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
    return (int8_t)engine_clamp(mean, layer->low, layer->high);
}

/* Four channels at a time; a window as wide as the input is one line. */
static void engine_pool_fours(const engine_pool_t *layer, engine_window_t window, const int8_t *input, int8_t *output)
{
    const int32_t height = window.bottom - window.top, width = window.right - window.left;
    const int32_t lines = width == layer->in_w ? 1 : height, places = width * height / lines;
    input += (window.top * layer->in_w + window.left) * layer->channels;
    for (int32_t channel = 0; channel < layer->channels; channel += 4) {
        int32_t sums[4] = {0, 0, 0, 0};
        for (int32_t line = 0; line < lines; line++) {
            engine_add_fours(sums, input + line * layer->in_w * layer->channels + channel, places, layer->channels);
        }
        for (int32_t i = 0; i < 4; i++) {
            output[channel + i] = engine_pool_mean(layer, sums[i], width * height);
        }
    }
}

#if ENGINE_DSP
/* Four channels at a time. Returns how many channels are done. */
static int32_t engine_pool_maxima(
    const engine_pool_t *layer, engine_window_t window, const int8_t *input, int8_t *output)
{
    const uint32_t low = (uint8_t)layer->low * 0x1010101u, high = (uint8_t)layer->high * 0x1010101u;
    const int32_t fours = layer->channels & ~3, pitch = layer->in_w * layer->channels;
    for (int32_t channel = 0; channel < fours; channel += 4) {
        uint32_t largest = low;
        for (int32_t y = window.top; y < window.bottom; y++) {
            const int8_t *values = input + y * pitch + window.left * layer->channels + channel;
            for (int32_t x = window.left; x < window.right; x++) {
                largest = engine_larger(largest, engine_load(values));
                values += layer->channels;
            }
        }
        largest = engine_smaller(largest, high);
        (void)memcpy(output + channel, &largest, sizeof largest);
    }
    return fours;
}
#endif

static int32_t engine_pool_maximum(const engine_pool_t *layer, engine_window_t window, const int8_t *input)
{
    int32_t largest = INT8_MIN;
    for (int32_t y = window.top; y < window.bottom; y++) {
        for (int32_t x = window.left; x < window.right; x++) {
            const int32_t value = input[(y * layer->in_w + x) * layer->channels];
            largest = value > largest ? value : largest;
        }
    }
    return largest;
}

static void engine_pool_averages(
    const engine_pool_t *layer, engine_window_t window, const int8_t *input, int8_t *output)
{
    const int32_t count = (window.bottom - window.top) * (window.right - window.left);
    if (layer->channels % 4 == 0) {
        engine_pool_fours(layer, window, input, output);
        return;
    }
    for (int32_t channel = 0; channel < layer->channels; channel++) {
        output[channel] = engine_pool_mean(layer, engine_pool_sum(layer, window, input + channel), count);
    }
}

void engine_average_pool(const engine_pool_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t pixel = 0; pixel < layer->out_h * layer->out_w; pixel++) {
        const engine_window_t window = engine_pool_window(layer, pixel / layer->out_w, pixel % layer->out_w);
        engine_pool_averages(layer, window, input, output);
        output += layer->channels;
    }
}

void engine_max_pool(const engine_pool_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t pixel = 0; pixel < layer->out_h * layer->out_w; pixel++) {
        const engine_window_t window = engine_pool_window(layer, pixel / layer->out_w, pixel % layer->out_w);
        int32_t channel = 0;
#if ENGINE_DSP
        channel = engine_pool_maxima(layer, window, input, output);
#endif
        for (; channel < layer->channels; channel++) {
            const int32_t value = engine_pool_maximum(layer, window, input + channel);
            output[channel] = (int8_t)engine_clamp(value, layer->low, layer->high);
        }
        output += layer->channels;
    }
}
