/* The same with a shift for each channel. */
void engine_planes_any_own(const engine_planes_any_t *layer, const int8_t *input, int8_t *output, void *scratch);
