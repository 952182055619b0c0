/* See README.md: the memory that several interpreters share. */
#ifndef TFLM_API_MICRO_ALLOCATOR_H
#define TFLM_API_MICRO_ALLOCATOR_H

#include <cstddef>
#include <cstdint>

namespace tflite {

class MicroAllocator {
 public:
  static MicroAllocator *Create(uint8_t *tensor_arena, size_t arena_size);
};

}  // namespace tflite

#endif
