// SPDX-License-Identifier: Apache-2.0
// Non-owning views of planar float images. Plain data: kernel files include this, so nothing here is inline std.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsr {

// Half-open rectangle [y0, y1) x [x0, x1) in absolute coordinates of one value's full image.
// A rectangle that says what an op reads may reach outside the image: that part is the border.
struct Rect {
  int64_t y0, x0, y1, x1;
};

static inline int64_t height(const Rect& r) { return r.y1 - r.y0; }
static inline int64_t width(const Rect& r) { return r.x1 - r.x0; }

// The full size of one value.
struct Extent {
  int64_t channels, height, width;
};

// Pixels [channels, height(rect), width(rect)] of one value. data points at (channel 0, rect.y0, rect.x0).
struct View {
  float* data;
  int64_t channel_stride;  // floats
  int64_t row_stride;      // floats
  int64_t channels;
  Rect rect;
};

static inline float* at(const View& v, int64_t c, int64_t y, int64_t x) {
  return v.data + c * v.channel_stride + (y - v.rect.y0) * v.row_stride + (x - v.rect.x0);
}

}  // namespace fastsr
