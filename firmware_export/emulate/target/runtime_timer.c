/* Count by a timer of the board whose time is the number of instructions: the emulator runs with -icount. */
#include "emulate.h"
#include "runtime.h"

#if defined(EMULATE_TIMER)

#define CONTROL (*(volatile uint32_t *)EMULATE_TIMER_CONTROL)
#define VALUE (*(volatile uint32_t *)EMULATE_TIMER_VALUE)
#define CALIBRATION 0u

typedef struct {
  uint64_t ticks;
  uint32_t entries;
  uint32_t started;
} region_t;

static region_t regions[EMULATE_REGIONS];
static uint32_t empty_ticks;

/* Counts up whatever the direction of the board's timer. */
static uint32_t now(void) {
  const uint32_t value = VALUE;
  return EMULATE_TIMER_DOWN ? ~value : value;
}

__attribute__((noinline)) void emulate_timer_start(uint32_t region) {
  region_t *const counted = &regions[region];
  counted->entries += 1u;
  counted->started = now();
}

__attribute__((noinline)) void emulate_timer_stop(uint32_t region) {
  const uint32_t stopped = now();
  region_t *const counted = &regions[region];
  counted->ticks += stopped - counted->started;
}

void emulate_timer_begin(void) {
  if (EMULATE_TIMER_DOWN) {
    VALUE = 0xFFFFFFFFu;
  }
  CONTROL = 1u;
  emulate_timer_start(CALIBRATION);
  emulate_timer_stop(CALIBRATION);
  empty_ticks = (uint32_t)regions[CALIBRATION].ticks;
  regions[CALIBRATION] = (region_t){0, 0, 0};
}

void emulate_timer_report(void) {
  for (uint32_t i = 0; i < EMULATE_REGIONS; ++i) {
    const region_t *const counted = &regions[i];
    if (counted->entries > 0u) {
      const uint64_t ticks = counted->ticks - (uint64_t)counted->entries * empty_ticks;
      const uint32_t values[] = {i, counted->entries, (uint32_t)(ticks >> 32), (uint32_t)ticks};
      emulate_report("region", values, 4u);
    }
  }
}

#else

void emulate_timer_begin(void) {}

void emulate_timer_report(void) {}

#endif
