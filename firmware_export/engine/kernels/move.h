/* Copies that change places only: a box of values, its innermost dimension without gaps where `run` says so. */
typedef struct {
    int32_t size[5];
    int32_t in_step[5];
    int32_t out_step[5];
    int32_t in_start, out_start;
} engine_move_t;

typedef struct {
    int32_t count;
    int32_t value;
} engine_fill_t;

/* Nearest neighbours of the rows and columns of an image. */
typedef struct {
    const uint16_t *rows; /* input row of each output row */
    const uint16_t *columns;
    int32_t in_w, out_h, out_w, channels;
} engine_resize_t;

void engine_move(const engine_move_t *layer, const int8_t *input, int8_t *output);
void engine_fill(const engine_fill_t *layer, int8_t *output);
void engine_resize(const engine_resize_t *layer, const int8_t *input, int8_t *output);
