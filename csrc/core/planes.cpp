// SPDX-License-Identifier: Apache-2.0
#include "core/planes.h"

#include <cstring>

namespace fastsr {

void PlaneSource::read(const View& to) const {
  const Rect& r = to.rect;
  for (int64_t c = 0; c < to.channels; ++c)
    for (int64_t y = r.y0; y < r.y1; ++y)
      std::memcpy(at(to, c, y, r.x0), at(view_, c, y, r.x0), sizeof(float) * static_cast<size_t>(width(r)));
}

}  // namespace fastsr
