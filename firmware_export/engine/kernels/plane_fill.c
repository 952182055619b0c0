/* One pair of places, line by line: where both begin in the input, or a pixel of zero points that is read again and
   again. The order of members is known to the assembly. */
typedef struct {
    const int8_t *first;
    const int8_t *second;
    int32_t first_step, second_step;
    engine_i16 *plane;
    int32_t size;  /* bytes of a plane */
    int32_t count; /* bytes to be written into each plane, at least 4 */
    uint32_t zeros; /* twice the negated zero point */
} engine_plane_pair_t;

#if ENGINE_DSP

/* Four channels of two pixels become four words: r0 r1 pixels, r2 r3 steps, r4-r7 planes, r8 end, r9 zeros. */
__attribute__((naked)) static void engine_plane_fours(const engine_plane_pair_t *pair __attribute__((unused)))
{
    __asm__("push {r4-r11, lr}\n\t"
            "ldmia r0, {r0-r5, r8, r9}\n\t"
            "add r6, r4, r5, lsl #1\n\t"
            "add r7, r6, r5\n\t"
            "add r5, r5, r4\n\t"
            "add r8, r8, r4\n\t"
            "1:\n\t"
            "ldr r10, [r0]\n\t"
            "ldr r11, [r1]\n\t"
            "add r0, r0, r2\n\t"
            "add r1, r1, r3\n\t"
            "pkhbt r12, r10, r11, lsl #16\n\t"
            "pkhtb lr, r11, r10, asr #16\n\t"
            "sxtab16 r10, r9, r12\n\t"
            "sxtab16 r11, r9, r12, ror #8\n\t"
            "sxtab16 r12, r9, lr\n\t"
            "sxtab16 lr, r9, lr, ror #8\n\t"
            "str r10, [r4], #4\n\t"
            "str r11, [r5], #4\n\t"
            "str r12, [r6], #4\n\t"
            "str lr, [r7], #4\n\t"
            "cmp r4, r8\n\t"
            "bne 1b\n\t"
            "pop {r4-r11, pc}\n\t");
}

#endif

static void engine_plane_singles(const engine_plane_pair_t *pair, int32_t channels)
{
    const int32_t zero = (int16_t)(pair->zeros & 0xffff);
    for (int32_t channel = 0; channel < channels; channel++) {
        const int8_t *first = pair->first + channel, *second = pair->second + channel;
        engine_i16 *plane = pair->plane + channel * (pair->size / 2);
        const engine_i16 *end = plane + pair->count / 2;
        while (plane != end) {
            plane[0] = (int16_t)(*first + zero);
            plane[1] = (int16_t)(*second + zero);
            first += pair->first_step;
            second += pair->second_step;
            plane += 2;
        }
    }
}

static void engine_plane_pair(const engine_plane_pair_t *pair, int32_t channels)
{
#if ENGINE_DSP
    if (channels == 4) {
        engine_plane_fours(pair);
        return;
    }
#endif
    engine_plane_singles(pair, channels);
}

/* All pairs of places in the lines of one phase, the first of them being `line`. */
static void engine_plane_phase(
    const engine_plane_image_t *image, engine_plane_pair_t *pair, const int8_t *input, int32_t channels)
{
    const int8_t blank[4] = {
        (int8_t)image->in_zero, (int8_t)image->in_zero, (int8_t)image->in_zero, (int8_t)image->in_zero};
    const int32_t step = image->in_line * image->phases;
    const int32_t end = 2 * image->pairs - image->place_pad;
    const int32_t places = end < image->in_places ? end : image->in_places;
    pair->plane += image->place_pad / 2 * 2 * image->phases * image->lines;
    input -= (image->place_pad & 1) * image->in_place;
    for (int32_t place = -(image->place_pad & 1); place < places; place += 2) {
        pair->first = place < 0 ? blank : input;
        pair->first_step = place < 0 ? 0 : step;
        pair->second = place + 1 < places ? input + image->in_place : blank;
        pair->second_step = place + 1 < places ? step : 0;
        engine_plane_pair(pair, channels);
        pair->plane += 2 * image->phases * image->lines;
        input += 2 * image->in_place;
    }
}

void engine_plane_fill(const engine_plane_image_t *image, engine_i16 *planes, const int8_t *input, int32_t channels)
{
    const int32_t lines = image->lines * image->phases - image->line_pad;
    const int32_t height = lines < image->in_lines ? lines : image->in_lines;
    for (int32_t line = 0; line < image->phases && line < height; line++) {
        const int32_t row = line + image->line_pad, phase = row % image->phases;
        engine_plane_pair_t pair = {
            0,
            0,
            0,
            0,
            planes + (phase * image->lines + row / image->phases) * 2,
            image->pairs * image->phases * image->lines * 4,
            (height - line + image->phases - 1) / image->phases * 4,
            (uint32_t)(uint16_t)-image->in_zero * 0x10001u,
        };
        engine_plane_phase(image, &pair, input + line * image->in_line, channels);
    }
}
