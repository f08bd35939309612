// SPDX-License-Identifier: Apache-2.0
// Aligned memory that is obtained once and kept.
#pragma once

#include <algorithm>
#include <memory>
#include <new>

#include "core/platform.h"

namespace fastsr {

constexpr size_t kAlign = 64;

inline size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

struct Free {
  void operator()(void* p) const { platform::free(p); }
};

using Block = std::unique_ptr<unsigned char, Free>;

// At least `bytes` bytes at a 64-byte boundary. Throws std::bad_alloc.
inline Block allocate(size_t bytes) {
  const bool huge = bytes >= platform::kHugePage;
  const size_t align = huge ? platform::kHugePage : kAlign;
  const size_t whole = (std::max<size_t>(bytes, 1) + align - 1) / align * align;
  void* p = platform::allocate(align, whole);
  if (!p) throw std::bad_alloc();
  // Tiles hop from map to map, each on a small page of its own: large pages spare the TLB.
  if (huge) platform::prefer_huge_pages(p, whole);
  return Block(static_cast<unsigned char*>(p));
}

}  // namespace fastsr
