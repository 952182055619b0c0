#include "semihosting.h"

#define SYS_OPEN 0x01u
#define SYS_WRITE0 0x04u
#define SYS_WRITE 0x05u
#define SYS_READ 0x06u
#define SYS_EXIT 0x18u
#define STOPPED_APPLICATION_EXIT 0x20026u

static uint32_t call(uint32_t operation, const void *argument) {
  register uint32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

uint32_t semihosting_length(const char *text) {
  uint32_t length = 0;
  while (text[length] != '\0') {
    ++length;
  }
  return length;
}

int32_t semihosting_open(const char *name, uint32_t mode) {
  const uint32_t block[] = {(uint32_t)(uintptr_t)name, mode, semihosting_length(name)};
  return (int32_t)call(SYS_OPEN, block);
}

uint32_t semihosting_read(int32_t file, void *buffer, size_t size) {
  const uint32_t block[] = {(uint32_t)file, (uint32_t)(uintptr_t)buffer, (uint32_t)size};
  return call(SYS_READ, block);
}

uint32_t semihosting_write(int32_t file, const void *bytes, size_t size) {
  const uint32_t block[] = {(uint32_t)file, (uint32_t)(uintptr_t)bytes, (uint32_t)size};
  return call(SYS_WRITE, block);
}

void semihosting_print(const char *text) { call(SYS_WRITE0, text); }

void semihosting_exit(void) {
  for (;;) {
    call(SYS_EXIT, (const void *)STOPPED_APPLICATION_EXIT); /* for this operation a value, not an address */
  }
}
