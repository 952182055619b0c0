/* See README.md: the flatbuffer's root. */
#ifndef TFLM_API_SCHEMA_GENERATED_H
#define TFLM_API_SCHEMA_GENERATED_H

#include <cstdint>

#define TFLITE_SCHEMA_VERSION (3)

namespace tflite {

class Model {
 public:
  uint32_t version() const;
};

const Model *GetModel(const void *buffer);

}  // namespace tflite

#endif
