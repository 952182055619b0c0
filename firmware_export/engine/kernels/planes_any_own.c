#if ENGINE_DSP

#define ENGINE_ANY_OWN_1(sum)           \
    "add r12, r3, " sum ", asr #31\n\t" \
    "smmlar " sum ", " sum ", r2, r12\n\t"
#define ENGINE_ANY_OWN_2(sum)      \
    "asr " sum ", " sum ", lr\n\t" \
    "ssat " sum ", #8, " sum "\n\t"

__attribute__((naked)) static void engine_any_own_shifts(engine_any_t *any __attribute__((unused)))
{
    __asm__(ENGINE_ANY(ENGINE_ANY_OWN_1, ENGINE_ANY_OWN_2));
}

static void engine_any_own(const engine_planes_any_t *layer, engine_any_t *any)
{
    (void)layer;
    engine_any_own_shifts(any);
}

#else
#define engine_any_own engine_any
#endif

void engine_planes_any_own(const engine_planes_any_t *layer, const int8_t *input, int8_t *output, void *scratch)
{
    engine_planes_any_by(engine_any_own, layer, input, output, scratch);
}
