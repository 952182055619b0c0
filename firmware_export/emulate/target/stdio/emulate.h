/* In place of ../emulate.h on a host: input from stdin, output to stdout, nothing is counted. */
#ifndef EMULATE_H
#define EMULATE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

static inline size_t emulate_read(void *buffer, size_t size) { return fread(buffer, 1, size, stdin); }

static inline void emulate_write(const void *bytes, size_t size) { (void)fwrite(bytes, 1, size, stdout); }

#define EMULATE_REGION_START(region)
#define EMULATE_REGION_STOP(region)

#endif
