/* A device that asks the cloud through its UART: the loop around the sources of a bundle. */
#ifndef GATEWAY_H
#define GATEWAY_H

#include <stdint.h>

#include "hybrid_decide.h"

/* Classify HYBRID_INPUT_BYTES uint8 pixels up to the decision to keep or to ask. */
typedef hybrid_status_t (*gateway_classify_t)(const uint8_t *pixels, hybrid_result_t *result);

/* Classify the examples that come over the UART, ask the host about the hard ones and send back what became of each,
 * until the host sends the end. Returns the first status that is not HYBRID_OK, after telling the host. */
hybrid_status_t gateway_run(gateway_classify_t classify);

#endif
