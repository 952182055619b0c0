/* Fixed point of TensorFlow Lite, and what all kernels share. */

/* Accesses 16-bit values in a buffer of bytes. */
#if defined(__GNUC__)
typedef int16_t __attribute__((may_alias)) engine_i16;
#else
typedef int16_t engine_i16;
#endif

/* DSP instructions of Armv7E-M and Armv8-M, through inline assembly; elsewhere, or where ENGINE_PORTABLE is defined,
   plain C computes the same from the same layouts. The assembly stores words at any address, as these cores do unless
   CCR.UNALIGN_TRP is set. */
#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__) && defined(__thumb2__) && !defined(ENGINE_PORTABLE)
#define ENGINE_DSP 1
#else
#define ENGINE_DSP 0
#endif

/* Cores whose multiplication needs one of its factors' registers and whose instructions reach eight registers. */
#if defined(__GNUC__) && defined(__thumb__) && !defined(__thumb2__)
#define ENGINE_THUMB1 1
#else
#define ENGINE_THUMB1 0
#endif

/* How one output channel is brought into its scale.
   LONG: mantissa * 2^(shift - 31) with both roundings; addend is the output's zero point.
   The short forms hold twice the sum in acc and give ((acc * mantissa + 2^31) / 2^32 + addend) >> shift, each division
   rounded down: the same number as by both roundings, where the generator has proven it for the channel.
   POSITIVE: sums below 0 end below the zero point and are clamped away. SIGNED: they get 1 less, as their halves are
   rounded away from 0. */
typedef struct {
    int32_t mantissa;
    int32_t addend;
    int32_t shift;
} engine_channel_t;

enum { ENGINE_LONG = 0, ENGINE_POSITIVE = 1, ENGINE_SIGNED = 2 };

/* Sum that wraps. */
static inline int32_t engine_add(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

static inline int32_t engine_clamp(int32_t value, int32_t low, int32_t high)
{
    const int32_t raised = value < low ? low : value;
    return raised > high ? high : raised;
}

/* value * mantissa * 2^(shift - 31): rounds halves up, then after the shift to the right halves away from zero. */
static inline int32_t engine_multiply(int32_t value, int32_t mantissa, int32_t shift)
{
    const int32_t shifted = shift > 0 ? (int32_t)((uint32_t)value << shift) : value;
    const int64_t product = (int64_t)shifted * mantissa + ((int64_t)1 << 30);
    const int64_t high = product >> 31;
    if (shift >= 0) {
        return (int32_t)high;
    }
    return (int32_t)((high + ((int64_t)1 << (-shift - 1)) - (high < 0 ? 1 : 0)) >> -shift);
}

/* (a * b + 2^31) / 2^32, rounded down, plus c. */
static inline int32_t engine_high(int32_t a, int32_t b, int32_t c)
{
#if ENGINE_DSP
    int32_t sum;
    __asm__("smmlar %0, %1, %2, %3" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
    return sum;
#elif ENGINE_THUMB1
    const int32_t a_high = a >> 16, b_high = b >> 16, a_low = a & 0xffff, b_low = b & 0xffff;
    const int32_t first = a_high * b_low + (int32_t)((uint32_t)a_low * (uint32_t)b_low >> 16);
    const int32_t second = a_low * b_high + (first & 0xffff);
    return a_high * b_high + (first >> 16) + (second >> 16) + (second >> 15 & 1) + c;
#else
    return (int32_t)(((int64_t)a * b + ((int64_t)1 << 31)) >> 32) + c;
#endif
}

/* Into the range of int8. */
static inline int32_t engine_saturate(int32_t value)
{
#if ENGINE_DSP
    int32_t saturated;
    __asm__("ssat %0, #8, %1" : "=r"(saturated) : "r"(value));
    return saturated;
#else
    return engine_clamp(value, INT8_MIN, INT8_MAX);
#endif
}

/* An accumulator in the output's scale, zero point included, before the clamp. */
static inline int32_t engine_rescale(int32_t acc, const engine_channel_t *channel, int32_t form)
{
    if (form == ENGINE_LONG) {
        return engine_add(engine_multiply(acc, channel->mantissa, channel->shift), channel->addend);
    }
    const int32_t sign = form == ENGINE_SIGNED && acc < 0 ? -1 : 0;
    return engine_high(acc, channel->mantissa, channel->addend + sign) >> channel->shift;
}

#if ENGINE_DSP

static inline uint32_t engine_load(const void *from)
{
    uint32_t word;
    (void)memcpy(&word, from, sizeof word);
    return word;
}

/* Bytes 0 and 2 of `bytes`, signed, added to the halves of `halves`. */
static inline uint32_t engine_sxtab16(uint32_t halves, uint32_t bytes)
{
    uint32_t sum;
    __asm__("sxtab16 %0, %1, %2" : "=r"(sum) : "r"(halves), "r"(bytes));
    return sum;
}

/* Bytes 1 and 3. */
static inline uint32_t engine_sxtab16_odd(uint32_t halves, uint32_t bytes)
{
    uint32_t sum;
    __asm__("sxtab16 %0, %1, %2, ror #8" : "=r"(sum) : "r"(halves), "r"(bytes));
    return sum;
}

static inline uint32_t engine_sadd16(uint32_t a, uint32_t b)
{
    uint32_t sum;
    __asm__("sadd16 %0, %1, %2" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}

/* The larger of each pair of signed bytes. */
static inline uint32_t engine_larger(uint32_t a, uint32_t b)
{
    uint32_t larger;
    __asm__("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(larger) : "r"(a), "r"(b));
    return larger;
}

static inline uint32_t engine_smaller(uint32_t a, uint32_t b)
{
    uint32_t smaller;
    __asm__("ssub8 %0, %2, %1\n\tsel %0, %1, %2" : "=&r"(smaller) : "r"(a), "r"(b));
    return smaller;
}

/* Four values less a zero point, twice that where `twice`: k0, k2 to `even`, k1, k3 to `odd`. */
static inline void engine_unpack_quad(
    engine_i16 *even, engine_i16 *odd, const int8_t *values, uint32_t zeros, int32_t twice)
{
    const uint32_t bytes = engine_load(values);
    uint32_t first = engine_sxtab16(zeros, bytes), second = engine_sxtab16_odd(zeros, bytes);
    if (twice) {
        first = engine_sadd16(first, first);
        second = engine_sadd16(second, second);
    }
    (void)memcpy(even, &first, sizeof first);
    (void)memcpy(odd, &second, sizeof second);
}

/* The low halves of both; the high halves of both. */
static inline uint32_t engine_pkhbt(uint32_t low, uint32_t high)
{
    uint32_t halves;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(halves) : "r"(low), "r"(high));
    return halves;
}

static inline uint32_t engine_pkhtb(uint32_t high, uint32_t low)
{
    uint32_t halves;
    __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(halves) : "r"(high), "r"(low));
    return halves;
}

#endif
