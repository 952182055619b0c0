/* The lines of one phase, for all pairs of places. The order of members is known to the assembly. */
typedef struct {
    const int8_t *input; /* of the first pair, which may begin before the image */
    engine_i16 *plane;
    int32_t size;     /* bytes of a plane */
    uint32_t zeros;   /* twice the negated zero point */
    uint32_t blank;   /* four zero points */
    int32_t step;     /* from line to line of the input */
    int32_t in_place; /* from place to place */
    int32_t count;    /* bytes to be written of each pair, at least 4 */
    int32_t gap;      /* bytes from behind them to the next pair */
    int32_t place;    /* -1 or 0 */
    int32_t places;   /* of the image */
    int32_t channels;
} engine_plane_lines_t;

#if ENGINE_DSP

/* Four channels of two pixels, r10 and r11, become four words in the planes r4-r7; r9 zeros. */
#define ENGINE_FOUR_WORDS              \
    "pkhbt r12, r10, r11, lsl #16\n\t" \
    "pkhtb lr, r11, r10, asr #16\n\t"  \
    "sxtab16 r10, r9, r12\n\t"         \
    "sxtab16 r11, r9, r12, ror #8\n\t" \
    "sxtab16 r12, r9, lr\n\t"          \
    "sxtab16 lr, r9, lr, ror #8\n\t"   \
    "str r10, [r4], #4\n\t"            \
    "str r11, [r5], #4\n\t"            \
    "str r12, [r6], #4\n\t"            \
    "str lr, [r7], #4\n\t"

/* A line of a pair: bytes of two channels become `halves`, of the two others `rest`. */
#define ENGINE_PAIR_WORDS(halves, rest, first, second)     \
    "pkhbt " halves ", " first ", " second ", lsl #16\n\t" \
    "pkhtb " rest ", " second ", " first ", asr #16\n\t"

/* Two lines, r12 r10 the first one and r1 r11 the second one, into the planes; then on to the end of the pair. */
#define ENGINE_TWO_LINES_OF_FOUR(again) \
    "sxtab16 lr, r9, r12, ror #8\n\t"   \
    "sxtab16 r8, r9, r1, ror #8\n\t"    \
    "strd lr, r8, [r5], #8\n\t"         \
    "sxtab16 r12, r9, r12\n\t"          \
    "sxtab16 r1, r9, r1\n\t"            \
    "strd r12, r1, [r4], #8\n\t"        \
    "sxtab16 lr, r9, r10, ror #8\n\t"   \
    "sxtab16 r8, r9, r11, ror #8\n\t"   \
    "strd lr, r8, [r7], #8\n\t"         \
    "sxtab16 r10, r9, r10\n\t"          \
    "sxtab16 r11, r9, r11\n\t"          \
    "strd r10, r11, [r6], #8\n\t"       \
    "ldr r8, [sp, #32]\n\t"             \
    "cmp r4, r8\n\t"                    \
    "bne " again "\n\t"

/* On the stack: blank, step, place step, count, gap, place, places, input, end of a pair. Registers: r0 input, r2 step,
   r3 place step, or the blank pixel where one place is outside of the image. */
__attribute__((naked)) static void engine_plane_fours(const engine_plane_lines_t *lines __attribute__((unused)))
{
    __asm__("push {r4-r11, lr}\n\t"
            "sub sp, sp, #36\n\t"
            "ldmia r0!, {r3-r5, r9}\n\t"
            "ldmia r0, {r0, r1, r2, r6, r7, r8, r10}\n\t"
            "stmia sp, {r0, r1, r2, r6, r7, r8, r10}\n\t"
            "str r3, [sp, #28]\n\t"
            "add r6, r4, r5, lsl #1\n\t"
            "add r7, r6, r5\n\t"
            "add r5, r5, r4\n\t"
            "1:\n\t" /* a pair of places */
            "ldr r0, [sp, #28]\n\t"
            "ldrd r2, r3, [sp, #4]\n\t"
            "add r10, r0, r3, lsl #1\n\t"
            "ldr r1, [sp, #12]\n\t"
            "str r10, [sp, #28]\n\t"
            "ldrd r8, r11, [sp, #20]\n\t"
            "add r10, r1, r4\n\t"
            "str r10, [sp, #32]\n\t"
            "add r12, r8, #2\n\t"
            "str r12, [sp, #20]\n\t"
            "cmp r8, #0\n\t"
            "blt 4f\n\t"
            "cmp r12, r11\n\t"
            "bgt 5f\n\t"
            "lsls r1, r1, #29\n\t"
            "bpl 2f\n\t" /* an odd number of lines: one alone */
            "ldr r10, [r0]\n\t"
            "ldr r11, [r0, r3]\n\t"
            "add r0, r0, r2\n\t" ENGINE_FOUR_WORDS
            "ldr r8, [sp, #32]\n\t"
            "cmp r4, r8\n\t"
            "beq 3f\n\t"
            "2:\n\t" /* two lines */
            "ldr r10, [r0]\n\t"
            "ldr r11, [r0, r3]\n\t"
            "add r0, r0, r2\n\t" ENGINE_PAIR_WORDS("r12", "r10", "r10", "r11")
            "ldr r11, [r0]\n\t"
            "ldr lr, [r0, r3]\n\t"
            "add r0, r0, r2\n\t" ENGINE_PAIR_WORDS("r1", "r11", "r11", "lr") ENGINE_TWO_LINES_OF_FOUR("2b")
            "3:\n\t"
            "ldrd r10, r11, [sp, #16]\n\t"
            "ldr r12, [sp, #24]\n\t"
            "add r4, r4, r10\n\t"
            "add r5, r5, r10\n\t"
            "add r6, r6, r10\n\t"
            "add r7, r7, r10\n\t"
            "cmp r11, r12\n\t"
            "blt 1b\n\t"
            "add sp, sp, #36\n\t"
            "pop {r4-r11, pc}\n\t"
            "4:\n\t" /* a pair of which one is outside of the image: the first one where r8 is negative */
            "add r0, r0, r3\n\t"
            "5:\n\t"
            "ldr r3, [sp]\n\t"
            "lsls r1, r1, #29\n\t"
            "bpl 6f\n\t"
            "ldr r11, [r0]\n\t"
            "add r0, r0, r2\n\t"
            "mov r10, r3\n\t"
            "cmp r8, #0\n\t"
            "itt ge\n\tmovge r10, r11\n\tmovge r11, r3\n\t" ENGINE_FOUR_WORDS
            "ldr r12, [sp, #32]\n\t"
            "cmp r4, r12\n\t"
            "beq 3b\n\t"
            "6:\n\t"
            "cmp r8, #0\n\t"
            "bge 8f\n\t"
            "7:\n\t"
            "ldr r10, [r0]\n\t"
            "add r0, r0, r2\n\t" ENGINE_PAIR_WORDS("r12", "r10", "r3", "r10")
            "ldr r11, [r0]\n\t"
            "add r0, r0, r2\n\t" ENGINE_PAIR_WORDS("r1", "r11", "r3", "r11") ENGINE_TWO_LINES_OF_FOUR("7b")
            "b 3b\n\t"
            "8:\n\t"
            "ldr r10, [r0]\n\t"
            "add r0, r0, r2\n\t" ENGINE_PAIR_WORDS("r12", "r10", "r10", "r3")
            "ldr r11, [r0]\n\t"
            "add r0, r0, r2\n\t" ENGINE_PAIR_WORDS("r1", "r11", "r11", "r3") ENGINE_TWO_LINES_OF_FOUR("8b")
            "b 3b\n\t");
}

#endif

static void engine_plane_single(
    engine_i16 *plane, const int8_t *first, const int8_t *second, const engine_plane_lines_t *lines)
{
    const int32_t zero = (int16_t)(lines->zeros & 0xffff);
    const int32_t first_step = first ? lines->step : 0, second_step = second ? lines->step : 0;
    const int8_t blank = (int8_t)(lines->blank & 0xff);
    const engine_i16 *end = plane + lines->count / 2;
    first = first ? first : &blank;
    second = second ? second : &blank;
    while (plane != end) {
        plane[0] = (int16_t)(*first + zero);
        plane[1] = (int16_t)(*second + zero);
        first += first_step;
        second += second_step;
        plane += 2;
    }
}

/* One channel after the other. */
static void engine_plane_singles(const engine_plane_lines_t *lines)
{
    for (int32_t channel = 0; channel < lines->channels; channel++) {
        engine_i16 *plane = lines->plane + channel * (lines->size / 2);
        for (int32_t place = lines->place; place < lines->places; place += 2) {
            const int8_t *first = lines->input + (place - lines->place) * lines->in_place + channel;
            engine_plane_single(
                plane, place < 0 ? 0 : first, place + 1 < lines->places ? first + lines->in_place : 0, lines);
            plane += (lines->count + lines->gap) / 2;
        }
    }
}

static void engine_plane_lines(const engine_plane_lines_t *lines)
{
#if ENGINE_DSP
    if (lines->channels == 4) {
        engine_plane_fours(lines);
        return;
    }
#endif
    engine_plane_singles(lines);
}

/* The lines of a phase, the first of them being `line`, of which there must be one. */
static engine_plane_lines_t engine_plane_phase(
    const engine_plane_image_t *image, engine_i16 *planes, const int8_t *input, int32_t line)
{
    const int32_t phases = image->phases, odd = image->place_pad & 1, column = phases * image->lines;
    const int32_t end = image->lines * phases - image->line_pad, places = 2 * image->pairs - image->place_pad;
    const int32_t height = end < image->in_lines ? end : image->in_lines;
    const int32_t row = line + image->line_pad, count = (height - line + phases - 1) / phases * 4;
    const engine_plane_lines_t lines = {
        input + line * image->in_line - odd * image->in_place,
        planes + (image->place_pad / 2 * column + row % phases * image->lines + row / phases) * 2,
        image->pairs * column * 4,
        (uint32_t)(uint16_t)-image->in_zero * 0x10001u,
        (uint8_t)image->in_zero * 0x1010101u,
        image->in_line * phases,
        image->in_place,
        count,
        column * 4 - count,
        -odd,
        places < image->in_places ? places : image->in_places,
        0,
    };
    return lines;
}

void engine_plane_fill(const engine_plane_image_t *image, engine_i16 *planes, const int8_t *input, int32_t channels)
{
    const int32_t end = image->lines * image->phases - image->line_pad;
    const int32_t height = end < image->in_lines ? end : image->in_lines;
    for (int32_t line = 0; line < image->phases && line < height; line++) {
        engine_plane_lines_t lines = engine_plane_phase(image, planes, input, line);
        lines.channels = channels;
        engine_plane_lines(&lines);
    }
}
