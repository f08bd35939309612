// SPDX-License-Identifier: Apache-2.0
// Aligned memory that is obtained once and kept.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

namespace fastsr {

constexpr size_t kAlign = 64;

inline size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

struct Free {
  void operator()(void* p) const { std::free(p); }
};

using Block = std::unique_ptr<unsigned char, Free>;

// At least `bytes` bytes at a 64-byte boundary. Throws std::bad_alloc.
inline Block allocate(size_t bytes) {
  void* p = std::aligned_alloc(kAlign, aligned(bytes ? bytes : 1));
  if (!p) throw std::bad_alloc();
  return Block(static_cast<unsigned char*>(p));
}

}  // namespace fastsr
