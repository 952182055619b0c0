#if ENGINE_DSP

/* Sums become outputs; r2 mantissa, then shift, r3 addend. */
#define ENGINE_OWN_1(sum)              \
    "add r9, r3, " sum ", asr #31\n\t" \
    "smmlar " sum ", " sum ", r2, r9\n\t"
#define ENGINE_OWN_2(sum)          \
    "asr " sum ", " sum ", r2\n\t" \
    "ssat " sum ", #8, " sum "\n\t"
#define ENGINE_OWN_2_LINES                                                         \
    "ldrd r2, r3, [sp, #4]\n\t"                                                    \
    ENGINE_OWN_1("r10") ENGINE_OWN_1("r11") ENGINE_OWN_1("r12") ENGINE_OWN_1("lr") \
    "ldr r2, [sp, #12]\n\t"                                                        \
    "ldr r9, [sp, #96]\n\t"                                                        \
    ENGINE_OWN_2("r10") ENGINE_OWN_2("r11") ENGINE_OWN_2("r12") ENGINE_OWN_2("lr")
#define ENGINE_OWN_PAIR(first, second)       \
    "ldrd r2, r3, [sp, #4]\n\t"              \
    ENGINE_OWN_1(first) ENGINE_OWN_1(second) \
    "ldr r2, [sp, #12]\n\t"                  \
    "ldr r9, [sp, #96]\n\t"                  \
    ENGINE_OWN_2(first) ENGINE_OWN_2(second)

ENGINE_PLANE_FUNCTION(
    engine_plane_1_own, ENGINE_TWO_LINES_1, ENGINE_ONE_LINE_1, ENGINE_ALONE_1, ENGINE_OWN_2_LINES, ENGINE_OWN_PAIR)
ENGINE_PLANE_FUNCTION(
    engine_plane_2_own, ENGINE_TWO_LINES_2, ENGINE_ONE_LINE_2, ENGINE_ALONE_2, ENGINE_OWN_2_LINES, ENGINE_OWN_PAIR)

static void engine_plane_own(const engine_planes_t *layer, engine_plane_t *plane)
{
    if (layer->stride == 1) {
        engine_plane_1_own(plane);
    } else {
        engine_plane_2_own(plane);
    }
}

#else
#define engine_plane_own engine_plane
#endif

void engine_planes_own(const engine_planes_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_planes_by(engine_plane_own, layer, input, output, scratch);
}
