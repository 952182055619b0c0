/* The whole device in its loop: it classifies, keeps or asks, whatever engine it was built with. */
#include "gateway.h"
#include "hybrid_classify.h"

int main(void) {
  const hybrid_status_t status = hybrid_init();
  return (int)(status == HYBRID_OK ? gateway_run(hybrid_classify) : status);
}
