// SPDX-License-Identifier: Apache-2.0
// Layout: what a run of one size holds and where: outer tiles, tasks, planes between segments, buffers in scratch.
#pragma once

#include <vector>

#include "core/io.h"
#include "core/program.h"

namespace fastsr {

// A buffer's place in a worker's scratch.
struct Placement {
  size_t offset = 0, end = 0;  // the last kGuard bytes are its guard
  int64_t row_stride = 0, channel_stride = 0;
};

struct SegmentLayout {
  int64_t height, width, band;     // of a task's tile of the output, in pixels; rows of it that are made at a time
  std::vector<Placement> buffers;  // as Segment::buffers
  size_t kernel_scratch;           // offset of what a kernel works in; it does not outlive a step
  size_t bytes;                    // of a worker's scratch; the last kGuard are the guard of what a kernel works in
  double share;                    // of the whole work
};

struct Layout {
  int64_t h = 0, w = 0, tile_h = 0, tile_w = 0;  // outer tiles in LR pixels; h, w: one
  std::vector<size_t> plane_offset;              // per value; only planes between segments have one
  size_t planes_bytes = 0;
  size_t scratch_bytes = 0;  // per worker
  std::vector<SegmentLayout> segments;
  bool direct = true;  // kernels write the output where it lies
  size_t sink_scratch = 0;
};

// What a run's caller brings.
struct Ends {
  const Sink* sink = nullptr;  // null: dense planes
  size_t held = 0;             // bytes that count against the memory limit beside the session's own
  bool direct() const { return !sink || sink->planes().data; }
};

// The layout that a run of this size uses. Throws Error(kLimit) where the limits of options are too low.
Layout choose_layout(const Program& program, int64_t h, int64_t w, const Ends& ends);

// Bytes that the sink works in for a band of this layout.
size_t sink_scratch(const Layout& layout, const Ends& ends);

// Bytes that the session holds while running, packed weights included.
size_t bytes(const Program& program, const Layout& layout, const Ends& ends);

// Per value, the part of it that the output rectangle `lr` (in LR pixels) asks for; of planes only. `areas` is overwritten,
// `need` worked in.
void plane_areas(const Program& program, const Rect& lr, int64_t h, int64_t w, std::vector<Rect>& areas, Needs& need);

// A plane between segments, of this part of its value.
View plane_view(float* data, int64_t channels, const Rect& rect);

// A value of more bytes than this is written past the caches: its next reader comes when they hold its end only.
bool beyond_caches(int64_t channels, int64_t h, int64_t w);

}  // namespace fastsr
