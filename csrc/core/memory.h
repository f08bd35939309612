// SPDX-License-Identifier: Apache-2.0
// Aligned memory that is obtained once and kept.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastsr {

constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;

inline size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

struct Free {
  void operator()(void* p) const { std::free(p); }
};

using Block = std::unique_ptr<unsigned char, Free>;

// At least `bytes` bytes at a 64-byte boundary. Throws std::bad_alloc.
inline Block allocate(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  const size_t align = huge ? kHugePage : kAlign;
  void* p = std::aligned_alloc(align, (std::max<size_t>(bytes, 1) + align - 1) / align * align);
  if (!p) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  // Tiles hop from map to map, each on a small page of its own: large pages spare the TLB. Advice only.
  if (huge) madvise(p, (bytes + align - 1) / align * align, MADV_HUGEPAGE);
#endif
  return Block(static_cast<unsigned char*>(p));
}

}  // namespace fastsr
