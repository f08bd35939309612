// SPDX-License-Identifier: Apache-2.0
// Rows: a buffer that slides down the image with a task's bands.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/tensor.h"

namespace fastsr {

// The rows from view.rect.y0 that are made, up to view.rect.y1.
struct Rows {
  View view{};
  bool begun = false;

  // Rows that a band needs no more leave, those made already move to the top. Returns the rectangle still to be made.
  Rect slide(const Rect& need) {
    const int64_t made = begun ? std::max(need.y0, view.rect.y1) : need.y0;
    const int64_t by = need.y0 - view.rect.y0;
    if (begun && by > 0 && made > need.y0)
      for (int64_t c = 0; c < view.channels; ++c) {
        float* to = view.data + c * view.channel_stride;
        std::memmove(to, to + by * view.row_stride,
                     sizeof(float) * static_cast<size_t>((made - need.y0) * view.row_stride));
      }
    begun = true;
    view.rect = {need.y0, need.x0, std::max(made, need.y1), need.x1};
    return {made, need.x0, view.rect.y1, need.x1};
  }
  View part(const Rect& rect) const {
    View v = view;
    v.data = at(view, 0, rect.y0, rect.x0);
    v.rect = rect;
    return v;
  }
};

}  // namespace fastsr
