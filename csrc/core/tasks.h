// SPDX-License-Identifier: Apache-2.0
// The size of a segment's tasks and bands: the least time per pixel among those whose values stay in L2.
#pragma once

#include "core/program.h"

namespace fastsr {

struct TaskSize {
  int64_t height, width, band;
  double work_per_pixel;  // multiply-adds, or what takes as long
};

// For an output, or an outer tile of it, of area_h x area_w pixels.
TaskSize choose_task(const Program& program, const Segment& segment, int64_t area_h, int64_t area_w);

// The same time per pixel of a segment's output where no edge is near and no image size is known, for the best of a few
// sizes: what compile cuts by.
double work_per_pixel(const Program& program, const Segment& segment);

}  // namespace fastsr
