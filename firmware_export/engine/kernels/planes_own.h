/* The same with a shift for each channel. */
void engine_planes_own(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch);
