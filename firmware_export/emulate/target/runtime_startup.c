/* From reset to main() and to the end, and what happens at a fault.
 *
 * main() runs on the process stack, handlers on the main stack, so that an overflow of the one can still be reported
 * on the other. The process stack lies at the lowest address of the RAM: an overflow meets no variable but a fault.
 */
#include <stddef.h>
#include <stdint.h>

#include "runtime.h"

#define PAINT 0x5AA55AA5u
#define CCR (*(volatile uint32_t *)0xE000ED14u)
#define CFSR (*(volatile uint32_t *)0xE000ED28u)
#define HFSR (*(volatile uint32_t *)0xE000ED2Cu)
#define BFAR (*(volatile uint32_t *)0xE000ED38u)
#define MMFAR (*(volatile uint32_t *)0xE000ED34u)
#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define MPU_CTRL (*(volatile uint32_t *)0xE000ED94u)
#define MPU_RBAR (*(volatile uint32_t *)0xE000ED9Cu)
#define MPU_RASR (*(volatile uint32_t *)0xE000EDA0u)
#define MPU_ELSEWHERE_AS_WITHOUT 5u
#define BELOW_RAM 0x10000000u
#define FORBIDDEN_256_MIB 0x10000037u
#define CCR_UNALIGN_TRP 0x8u
#define CPACR_FPU 0x00F00000u
#define FRAME_WORDS 8u

extern uint32_t link_stack_low[], link_stack_top[], link_handler_stack_top[];
extern uint32_t link_data_load[], link_data_start[], link_data_end[], link_bss_start[], link_bss_end[];

void emulate_reset(void);
void emulate_fault_handler(void);
void emulate_main_ended(uint32_t code);
void _exit(int code) __attribute__((noreturn));
void emulate_fault(const uint32_t *frame, uint32_t exc_return);

typedef void (*handler_t)(void);

__attribute__((section(".vectors"), used)) static const handler_t vectors[] = {
    (handler_t)(uintptr_t)link_handler_stack_top,
    emulate_reset,
    emulate_fault_handler, /* NMI */
    emulate_fault_handler, /* HardFault, to which the others escalate */
    emulate_fault_handler, /* MemManage */
    emulate_fault_handler, /* BusFault */
    emulate_fault_handler, /* UsageFault */
    emulate_fault_handler, /* SecureFault */
    emulate_fault_handler,
    emulate_fault_handler,
    emulate_fault_handler,
    emulate_fault_handler, /* SVCall */
    emulate_fault_handler, /* DebugMonitor */
    emulate_fault_handler,
    emulate_fault_handler, /* PendSV */
    emulate_fault_handler, /* SysTick */
};

static void copy(uint32_t *to, const uint32_t *end, const uint32_t *from) {
  while (to < end) {
    *to++ = *from++;
  }
}

static void fill(uint32_t *to, const uint32_t *end, uint32_t value) {
  while (to < end) {
    *to++ = value;
  }
}

/* Everything but main() runs on the handlers' stack and leaves the process stack as it was painted. */
void emulate_reset(void) {
#if defined(__ARM_FP)
  CPACR |= CPACR_FPU;
#endif
#if !defined(__ARM_FEATURE_UNALIGNED)
  CCR |= CCR_UNALIGN_TRP; /* the core that this code is for has no unaligned access */
#endif
#if __ARM_ARCH < 8
  /* On these boards addresses below the RAM belong to nothing, but are emulated as zeros: an overflow of the stack
   * would pass unseen. */
  MPU_RBAR = BELOW_RAM;
  MPU_RASR = FORBIDDEN_256_MIB;
  MPU_CTRL = MPU_ELSEWHERE_AS_WITHOUT;
#endif
  __asm__ volatile("dsb\n\tisb" ::: "memory");
  copy(link_data_start, link_data_end, link_data_load);
  fill(link_bss_start, link_bss_end, 0u);
  fill(link_stack_low, link_stack_top, PAINT);
  emulate_timer_begin();
  __asm__ volatile(
      "msr psp, %0\n\t"
      "movs r0, #2\n\t"
      "msr control, r0\n\t"
      "isb\n\t"
      "bl main\n\t"
      "movs r1, #0\n\t"
      "msr control, r1\n\t"
      "isb\n\t"
      "bl emulate_main_ended" ::"r"(link_stack_top)
      : "r0", "r1", "memory");
}

void emulate_main_ended(uint32_t code) {
  emulate_timer_report();
  emulate_report("exit", &code, 1u);
  emulate_finish();
}

/* What exit() of the C library ends in. */
void _exit(int code) {
  emulate_main_ended((uint32_t)code);
  for (;;) {
  }
}

uint32_t emulate_stack_used(void) {
  const uint32_t *lowest = link_stack_low;
  while (lowest < link_stack_top && *lowest == PAINT) {
    ++lowest;
  }
  return (uint32_t)(link_stack_top - lowest) * (uint32_t)sizeof(uint32_t);
}

__attribute__((naked)) void emulate_fault_handler(void) {
  __asm__ volatile(
      "mov r1, lr\n\t"
      "movs r2, #4\n\t"
      "mrs r0, msp\n\t"
      "tst r1, r2\n\t"
      "beq 1f\n\t"
      "mrs r0, psp\n"
      "1:\n\t"
      "ldr r2, =emulate_fault\n\t"
      "bx r2\n\t"
      ".ltorg");
}

/* `frame` holds r0 to r3, r12, lr, pc and xpsr, unless the stack that should hold it was the fault. */
void emulate_fault(const uint32_t *frame, uint32_t exc_return) {
  uint32_t number = 0;
  __asm__ volatile("mrs %0, ipsr" : "=r"(number));
  const uint32_t state[] = {number, exc_return, CFSR, HFSR, MMFAR, BFAR, (uint32_t)(uintptr_t)frame};
  emulate_report("fault", state, (uint32_t)(sizeof(state) / sizeof(state[0])));
  if (frame >= link_stack_low && frame + FRAME_WORDS <= link_handler_stack_top) {
    emulate_report("frame", frame, FRAME_WORDS);
  }
  emulate_finish();
}
