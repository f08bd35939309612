// SPDX-License-Identifier: Apache-2.0
// What Options::poison finds: memory that is read before it is written (NaN spreads to the output), and writes past the end
// of a buffer or of what a kernel works in. The arena is one allocation, of which no sanitizer sees the parts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace fastsr {

constexpr size_t kGuard = 256;  // bytes behind each part of the arena that nobody writes; kernels may read them
constexpr uint32_t kPoison = 0x7fc00000u;  // a NaN

inline void poison(unsigned char* p, size_t bytes) {
  for (size_t i = 0; i + sizeof kPoison <= bytes; i += sizeof kPoison) std::memcpy(p + i, &kPoison, sizeof kPoison);
}

// Whether the guard that ends at `end` is as `poison` left it.
inline bool untouched(const unsigned char* end) {
  for (const unsigned char* p = end - kGuard; p < end; p += sizeof kPoison)
    if (std::memcmp(p, &kPoison, sizeof kPoison) != 0) return false;
  return true;
}

}  // namespace fastsr
