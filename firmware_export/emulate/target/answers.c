/* Says everything that the sources of a bundle say about each example that comes in. */
#include <string.h>

#include "emulate.h"
#include "hybrid_classify.h"
#include "hybrid_payload.h"

/* marks.py has the same. */
#define WHOLE 255

static uint8_t pixels[HYBRID_INPUT_BYTES];
static uint8_t payload[HYBRID_PAYLOAD_MAX_BYTES];

static hybrid_status_t answer(const hybrid_result_t *result) {
  size_t size = 0;
  memset(payload, 0, sizeof(payload));
  const hybrid_status_t status =
      hybrid_payload_encode(HYBRID_PAYLOAD_DEFAULT, pixels, result, payload, sizeof(payload), &size);
  const int32_t numbers[] = {result->class_index, result->score, result->stage, (int32_t)result->decision,
                             (int32_t)size};
  emulate_write(numbers, sizeof(numbers));
  emulate_write(result->logits, HYBRID_NUM_CLASSES);
  emulate_write(payload, sizeof(payload));
  return status;
}

int main(void) {
  hybrid_status_t status = hybrid_init();
  while (status == HYBRID_OK && emulate_read(pixels, sizeof(pixels)) == sizeof(pixels)) {
    hybrid_result_t result;
    EMULATE_REGION_START(WHOLE);
    status = hybrid_classify(pixels, &result);
    EMULATE_REGION_STOP(WHOLE);
    if (status == HYBRID_OK) {
      status = answer(&result);
    }
  }
  return (int)status;
}
