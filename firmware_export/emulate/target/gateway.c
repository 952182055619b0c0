#include "gateway.h"

#include "emulate.h"
#include "hybrid_payload.h"

/* Frames; gateway.py has the same. */
#define EXAMPLE 'I'
#define ANSWER 'A'
#define NO_ANSWER 'N'
#define END 'E'
#define QUERY 'Q'
#define RESULT 'R'
#define TROUBLE 'T'

#define ANSWER_MAX_BYTES 32u

typedef enum { KEPT = 0, ANSWERED = 1, UNANSWERED = 2 } outcome_t;

static uint8_t pixels[HYBRID_INPUT_BYTES];
static uint8_t query[HYBRID_PAYLOAD_MAX_BYTES];

/* Where the cloud has no answer the edge's own stands. */
static hybrid_status_t ask(const hybrid_result_t *result, int32_t *class_index, outcome_t *outcome) {
  uint8_t answer[ANSWER_MAX_BYTES];
  uint8_t kind = 0;
  size_t size = 0;
  const hybrid_status_t status =
      hybrid_payload_encode(HYBRID_PAYLOAD_DEFAULT, pixels, result, query, sizeof(query), &size);
  if (status != HYBRID_OK) {
    return status;
  }
  emulate_frame_write(QUERY, query, size);
  size = emulate_frame_read(&kind, answer, sizeof(answer));
  *outcome = kind == NO_ANSWER ? UNANSWERED : ANSWERED;
  if (kind == NO_ANSWER) {
    return HYBRID_OK;
  }
  if (kind != ANSWER || size > sizeof(answer)) {
    return HYBRID_ERROR_ANSWER;
  }
  return hybrid_answer_class(answer, size, class_index);
}

static hybrid_status_t serve_one(gateway_classify_t classify) {
  hybrid_result_t result;
  outcome_t outcome = KEPT;
  hybrid_status_t status = classify(pixels, &result);
  if (status != HYBRID_OK) {
    return status;
  }
  int32_t class_index = result.class_index;
  if (result.decision == HYBRID_QUERY) {
    status = ask(&result, &class_index, &outcome);
  }
  if (status == HYBRID_OK) {
    const uint8_t body[] = {(uint8_t)(class_index >> 8),        (uint8_t)class_index,
                            (uint8_t)(result.class_index >> 8), (uint8_t)result.class_index,
                            (uint8_t)result.score,              (uint8_t)outcome};
    emulate_frame_write(RESULT, body, sizeof(body));
  }
  return status;
}

hybrid_status_t gateway_run(gateway_classify_t classify) {
  hybrid_status_t status = HYBRID_OK;
  uint8_t kind = 0;
  while (status == HYBRID_OK) {
    const size_t size = emulate_frame_read(&kind, pixels, sizeof(pixels));
    if (kind == END) {
      return HYBRID_OK;
    }
    status = kind == EXAMPLE && size == sizeof(pixels) ? serve_one(classify) : HYBRID_ERROR_ARGUMENT;
  }
  const uint8_t body = (uint8_t)status;
  emulate_frame_write(TROUBLE, &body, 1u);
  return status;
}
