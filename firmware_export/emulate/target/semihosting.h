/* Arm semihosting: the part of it that is used here. Every call is a breakpoint that the emulator answers. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

#define SEMIHOSTING_READ_BINARY 1u
#define SEMIHOSTING_WRITE_BINARY 5u

/* A file in the folder that the emulator was started in; -1 where it cannot be opened. */
int32_t semihosting_open(const char *name, uint32_t mode);

/* Both return the number of bytes that were not read or written. */
uint32_t semihosting_read(int32_t file, void *buffer, size_t size);
uint32_t semihosting_write(int32_t file, const void *bytes, size_t size);

/* strlen(), which would count as code of the program under test. */
uint32_t semihosting_length(const char *text);

void semihosting_print(const char *text);

/* End the emulation. */
void semihosting_exit(void) __attribute__((noreturn));

#endif
