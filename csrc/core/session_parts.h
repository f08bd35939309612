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

// A tile of a segment's output, in pixels, and how many rows of it are made at a time.
struct Session::Task {
  int64_t height, width, band;
};

// A value's or a kernel's place in a worker's scratch.
struct Session::Room {
  size_t offset;
  int64_t row_stride, channel_stride;
};

struct Session::Layout {
  int64_t h = 0, w = 0, tile_h = 0, tile_w = 0;  // outer tiles in LR pixels; h, w: one
  std::vector<size_t> plane_offset;              // per value; only those between segments have one
  size_t planes_bytes = 0;
  size_t scratch_bytes = 0;              // per worker
  std::vector<Task> task;                // per segment
  std::vector<std::vector<Room>> rooms;  // per segment: of each value it touches, then of each step's kernel
};

struct Session::Context {
  Layout layout;  // of its last run: a stream of equal frames plans once
  Block planes, scratch;
  size_t planes_bytes = 0, scratch_bytes = 0;
};

struct Session::Frame {
  const Layout* layout;
  Context* context;
  std::vector<View> views;  // per value: an input, output, or plane
};

static inline int64_t row_stride(int64_t w) { return (w + 15) / 16 * 16; }

// Odd numbers of cache lines from a channel to the next, so that the channels of a pixel spread over the sets of a cache.
static inline int64_t channel_stride(int64_t h, int64_t row) { return (h * row) | 16; }

// A value of more bytes than this is written past the caches: its next reader comes when they hold its end only.
constexpr int64_t kBeyondCaches = int64_t{48} << 20;
static inline bool beyond_caches(int64_t channels, int64_t h, int64_t w) {
  return 4 * channels * h * w > kBeyondCaches;
}

// A plane between segments. In a large one the rows of all channels lie together, so that a band is one piece of memory
// and few pages (btsrn 9 % faster); a small one is faster channel by channel (crnet_b 15 %).
static inline View plane(float* data, int64_t channels, const Rect& rect) {
  const int64_t row = row_stride(width(rect));
  if (!beyond_caches(channels, height(rect), width(rect)))
    return {data, channel_stride(height(rect), row), row, channels, rect};
  return {data, row | 16, channels * (row | 16) + 16, channels, rect};
}

static inline size_t plane_floats(int64_t channels, int64_t h, int64_t w) {
  return static_cast<size_t>(h * (channels * (row_stride(w) | 16) + 16) + channels * 16);
}

static inline size_t index(int i) { return static_cast<size_t>(i); }

// The rectangles of all values of steps [first, last) that the last one's output rectangle reads.
std::vector<Rect> needs_of(const Graph& graph, int first, int last, const Rect& out);

}  // namespace fastsr
