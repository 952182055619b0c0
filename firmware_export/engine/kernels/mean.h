/* Mean over any dimensions: the output's are `kept`, the others are summed up. */
typedef struct {
    int32_t kept[3], kept_step[3];
    int32_t summed[3], summed_step[3];
    int32_t offset; /* zero point of the input times the number of values in a sum */
    engine_channel_t rescale; /* in the form LONG, the division included */
} engine_mean_t;

void engine_mean(const engine_mean_t *layer, const int8_t *input, int8_t *output);
