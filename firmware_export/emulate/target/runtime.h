/* What the parts of the run-time share with one another; nothing here is for the program under test. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <stdint.h>

/* "word value value ...\n" in the report that the host reads, values hexadecimal. */
void emulate_report(const char *word, const uint32_t *values, uint32_t count);

/* Report the deepest stack and end the emulation. */
void emulate_finish(void) __attribute__((noreturn));

/* Bytes below the top of the stack that were written since the start. */
uint32_t emulate_stack_used(void);

/* Does nothing where instructions are counted by the plugin. */
void emulate_timer_begin(void);
void emulate_timer_report(void);

#endif
