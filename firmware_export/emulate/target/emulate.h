/* What a program under test may ask of the emulator. Only for emulated boards; a device's firmware never includes it.
 *
 * The program is ordinary C with `int main(void)`; what main() returns is the exit code. There is no heap.
 */
#ifndef EMULATE_H
#define EMULATE_H

#include <stddef.h>
#include <stdint.h>

/* Fill `buffer` from the input that the host gave; returns the number of bytes, less than `size` at the end. */
size_t emulate_read(void *buffer, size_t size);

/* Add bytes to the output that the host gets back. */
void emulate_write(const void *bytes, size_t size);

/* Add text to the console that the host gets back. */
void emulate_print(const char *text);

/* UART 0, whose other end is a socket of the host. Both calls wait until all bytes are through. */
void emulate_uart_read(uint8_t *buffer, size_t size);
void emulate_uart_write(const uint8_t *bytes, size_t size);

/* Frames on the UART: a kind, the number of bytes that follow as 32 bits big-endian, the bytes.
 * emulate_frame_read() returns that number; where it is above `capacity` the bytes are read and dropped. */
void emulate_frame_write(uint8_t kind, const uint8_t *body, size_t size);
size_t emulate_frame_read(uint8_t *kind, uint8_t *body, size_t capacity);

/* Count instructions from START to STOP under a number from 0 to 255, a constant. A region may be entered many times
 * and regions may overlap; marks themselves are not counted. Without the plugin, by the timer: within a few
 * instructions an entry, of which each may take 500 million. */
#define EMULATE_REGIONS 256

#if defined(EMULATE_TIMER)

void emulate_timer_start(uint32_t region);
void emulate_timer_stop(uint32_t region);

#define EMULATE_REGION_START(region) emulate_timer_start(region)
#define EMULATE_REGION_STOP(region) emulate_timer_stop(region)

#else

/* PLD (literal), which loads nothing and changes nothing: the number is its offset, the sign tells start from stop.
 * Raw words, as cores without PLD run here on one that has it. */
#define EMULATE_MARK(word, region)                                                                          \
  __asm__ volatile(".if (%c0) < 0 || (%c0) >= 256\n.error \"EMULATE_REGION: allowed 0 to 255\"\n.endif\n\t" \
                   ".inst.w " #word " + %c0" ::"i"(region)                                                  \
                   : "memory")
#define EMULATE_REGION_START(region) EMULATE_MARK(0xF81FF000, region)
#define EMULATE_REGION_STOP(region) EMULATE_MARK(0xF89FF000, region)

#endif

#endif
