#include "runtime.h"

#include "emulate.h"
#include "semihosting.h"

#define UART_DATA (*(volatile uint32_t *)(EMULATE_UART + 0x0u))
#define UART_STATE (*(volatile uint32_t *)(EMULATE_UART + 0x4u))
#define UART_CONTROL (*(volatile uint32_t *)(EMULATE_UART + 0x8u))
#define UART_BAUD_DIVISOR (*(volatile uint32_t *)(EMULATE_UART + 0x10u))
#define UART_TX_FULL 1u
#define UART_RX_FULL 2u
#define UART_ENABLE 3u
#define UART_SMALLEST_DIVISOR 16u
#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xE000E014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xE000E018u)
#define SYSTICK_RUN 5u
#define POLL_PAUSE 500u
#define FRAME_HEAD_BYTES 5u
#define CLOSED 0 /* no handle of an open file */

/* Opens at the first use; ends the emulation where the host refuses. */
static int32_t opened(int32_t *file, const char *name, uint32_t mode) {
  if (*file == CLOSED) {
    *file = semihosting_open(name, mode);
    if (*file <= 0) {
      semihosting_print("emulate: a file cannot be opened\n");
      semihosting_exit();
    }
  }
  return *file;
}

size_t emulate_read(void *buffer, size_t size) {
  static int32_t file;
  return size - semihosting_read(opened(&file, "input.bin", SEMIHOSTING_READ_BINARY), buffer, size);
}

void emulate_write(const void *bytes, size_t size) {
  static int32_t file;
  const int32_t output = opened(&file, "output.bin", SEMIHOSTING_WRITE_BINARY);
  if (semihosting_write(output, bytes, size) != 0u) {
    semihosting_print("emulate: the output cannot be written\n");
    semihosting_exit();
  }
}

void emulate_print(const char *text) { semihosting_print(text); }

/* The emulator looks for bytes of the host when something wakes it, enabling the UART does not, and starting any timer
 * does: without it the first bytes come up to a second late. */
static void uart_enable(void) {
  if (UART_CONTROL != UART_ENABLE) {
    UART_BAUD_DIVISOR = UART_SMALLEST_DIVISOR;
    UART_CONTROL = UART_ENABLE;
    SYSTICK_RELOAD = 1000u;
    SYSTICK_VALUE = 0u;
    SYSTICK_CONTROL = SYSTICK_RUN;
    SYSTICK_CONTROL = 0u;
  }
}

/* Every look at the UART holds up the emulator's thread that feeds it. */
static void pause(void) {
  for (uint32_t i = 0; i < POLL_PAUSE; ++i) {
    __asm__ volatile("");
  }
}

void emulate_uart_read(uint8_t *buffer, size_t size) {
  uart_enable();
  for (size_t i = 0; i < size; ++i) {
    while ((UART_STATE & UART_RX_FULL) == 0u) {
      pause();
    }
    buffer[i] = (uint8_t)UART_DATA;
  }
}

void emulate_uart_write(const uint8_t *bytes, size_t size) {
  uart_enable();
  for (size_t i = 0; i < size; ++i) {
    while ((UART_STATE & UART_TX_FULL) != 0u) {
    }
    UART_DATA = bytes[i];
  }
}

void emulate_frame_write(uint8_t kind, const uint8_t *body, size_t size) {
  const uint32_t length = (uint32_t)size;
  const uint8_t head[FRAME_HEAD_BYTES] = {kind, (uint8_t)(length >> 24), (uint8_t)(length >> 16),
                                          (uint8_t)(length >> 8), (uint8_t)length};
  emulate_uart_write(head, sizeof(head));
  emulate_uart_write(body, size);
}

size_t emulate_frame_read(uint8_t *kind, uint8_t *body, size_t capacity) {
  uint8_t head[FRAME_HEAD_BYTES];
  emulate_uart_read(head, sizeof(head));
  *kind = head[0];
  const size_t size =
      ((size_t)head[1] << 24) | ((size_t)head[2] << 16) | ((size_t)head[3] << 8) | (size_t)head[4];
  if (size <= capacity) {
    emulate_uart_read(body, size);
  } else {
    for (size_t i = 0; i < size; ++i) {
      emulate_uart_read(head, 1u);
    }
  }
  return size;
}

static void write_report(const char *text, size_t size) {
  static int32_t file;
  (void)semihosting_write(opened(&file, "report.txt", SEMIHOSTING_WRITE_BINARY), text, size);
}

void emulate_report(const char *word, const uint32_t *values, uint32_t count) {
  write_report(word, semihosting_length(word));
  for (uint32_t i = 0; i < count; ++i) {
    char text[] = " 00000000";
    for (uint32_t digit = 0; digit < 8u; ++digit) {
      text[8u - digit] = "0123456789abcdef"[(values[i] >> (4u * digit)) & 15u];
    }
    write_report(text, sizeof(text) - 1u);
  }
  write_report("\n", 1u);
}

void emulate_finish(void) {
  const uint32_t used = emulate_stack_used();
  emulate_report("stack", &used, 1u);
  semihosting_exit();
}
