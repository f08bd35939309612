// SPDX-License-Identifier: Apache-2.0
// Session's inner types, shared by session.cpp (prepare and run) and layout.cpp (sizes and places).
#pragma once

#include <vector>

#include "core/memory.h"
#include "core/session.h"

namespace fastsr {

struct Session::Packed {
  const Kernel* kernel;
  std::shared_ptr<unsigned char> weights;
  size_t bytes;
};

struct Session::Segment {
  int first, last;         // steps [first, last)
  std::vector<int> reads;  // values made before it
  int out;                 // the value it makes
  int64_t granule;
};

struct Session::Layout {
  int64_t h = 0, w = 0, tile = 0;
  std::vector<size_t> plane_offset;  // per value; only those between segments have one
  size_t planes_bytes = 0;
  size_t scratch_bytes = 0;                       // per worker
  std::vector<std::pair<int64_t, int64_t>> task;  // per segment: height, width of a task's tile of its output
  std::vector<std::vector<size_t>> offsets;       // per segment: scratch offset of each value it touches, then kernels'
};

struct Session::Context {
  Layout layout;  // of its last run: a stream of equal frames plans once
  Block planes, scratch;
  size_t planes_bytes = 0, scratch_bytes = 0;
};

struct Session::Frame {
  const Layout* layout;
  Context* context;
  std::vector<View> views;  // per value: input, output, or plane
};

static inline int64_t row_stride(int64_t w) { return (w + 15) / 16 * 16; }

static inline size_t index(int i) { return static_cast<size_t>(i); }

// The rectangles of all values of steps [first, last) that the last one's output rectangle reads.
std::vector<Rect> needs_of(const Graph& graph, int first, int last, const Rect& out);

}  // namespace fastsr
