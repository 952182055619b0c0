/* Convolution of int8, also in groups. */
typedef struct {
    const int32_t *weights; /* blocks of two channels, see tiles.h; each group is filled up */
    int32_t wide; /* 1: weights are int16, else int8 */
    int32_t form; /* ENGINE_LONG, ENGINE_POSITIVE, ENGINE_SIGNED or ENGINE_FIXED */
    int32_t offset; /* of ENGINE_FIXED */
    int32_t low, high; /* fused activation */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c;
    int32_t kernel_h, kernel_w;
    int32_t stride_h, stride_w;
    int32_t dilation_h, dilation_w;
    int32_t pad_h, pad_w;
    int32_t groups;
    int32_t joined; /* 1: the pixels of one row of the kernel are neighbours in memory and make one run */
    int32_t quads;  /* quads of values in a patch; each run is filled up to a multiple of four */
    int32_t row_quads; /* of one row of the kernel */
    int32_t pairs;  /* of patches that are unpacked before they are multiplied */
    int32_t in_zero;
} engine_conv_t;

/* scratch: 16 bytes for each of `quads` and `pairs`, then 8 for each of `quads`, or 16 and 40 more where weights are int8;
   aligned to 4. */
void engine_conv(const engine_conv_t *layer, const int8_t *input, int8_t *output, void *scratch);
