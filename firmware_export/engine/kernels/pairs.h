/* A walk over the output of an operator of two int8 tensors, each broadcast by steps of 0: the output's last dimension
   is the innermost loop. */
typedef struct {
    int32_t size[5];
    int32_t step_a[5];
    int32_t step_b[5];
} engine_pairs_t;
