// SPDX-License-Identifier: Apache-2.0
#include "core/tiles.h"

#include <algorithm>
#include <cstring>

#include "core/rule.h"

namespace fastsr {

Grid::Grid(const Rect& a, int64_t th, int64_t tw) : area(a), tile_h(th), tile_w(tw) {
  rows = ceil_div(a.y1, th) - floor_div(a.y0, th);
  columns = ceil_div(a.x1, tw) - floor_div(a.x0, tw);
}

Rect Grid::operator[](int64_t index) const {
  const int64_t y = (floor_div(area.y0, tile_h) + index / columns) * tile_h;
  const int64_t x = (floor_div(area.x0, tile_w) + index % columns) * tile_w;
  return intersect({y, x, y + tile_h, x + tile_w}, area);
}

Rect intersect(const Rect& a, const Rect& b) {
  return {std::max(a.y0, b.y0), std::max(a.x0, b.x0), std::min(a.y1, b.y1), std::min(a.x1, b.x1)};
}

Rect unite(const Rect& a, const Rect& b) {
  return {std::min(a.y0, b.y0), std::min(a.x0, b.x0), std::max(a.y1, b.y1), std::max(a.x1, b.x1)};
}

bool contains(const Rect& outer, const Rect& inner) {
  return outer.y0 <= inner.y0 && outer.x0 <= inner.x0 && outer.y1 >= inner.y1 && outer.x1 >= inner.x1;
}

int64_t border_index(int64_t i, int64_t n, Border mode) {
  if (i >= 0 && i < n) return i;
  switch (mode) {
    case Border::kZero:
      return -1;
    case Border::kReplicate:
      return i < 0 ? 0 : n - 1;
    case Border::kSymmetric:
      break;
  }
  int64_t m = i % (2 * n);
  if (m < 0) m += 2 * n;
  return m < n ? m : 2 * n - 1 - m;
}

void copy_with_border(const View& from, const View& to, int64_t h, int64_t w, Border mode) {
  const Rect& r = to.rect;
  const int64_t inside0 = std::clamp<int64_t>(r.x0, 0, w), inside1 = std::clamp<int64_t>(r.x1, inside0, w);
  for (int64_t c = 0; c < to.channels; ++c) {
    for (int64_t y = r.y0; y < r.y1; ++y) {
      float* row = at(to, c, y, r.x0);
      const int64_t source = border_index(y, h, mode);
      if (source < 0) {
        std::fill(row, row + width(r), 0.0f);
        continue;
      }
      const float* line = at(from, c, source, from.rect.x0) - from.rect.x0;  // line[x] is pixel (source, x)
      for (int64_t x = r.x0; x < std::min(inside0, r.x1); ++x) {
        const int64_t k = border_index(x, w, mode);
        row[x - r.x0] = k < 0 ? 0.0f : line[k];
      }
      if (inside1 > inside0)
        std::memcpy(row + (inside0 - r.x0), line + inside0, sizeof(float) * static_cast<size_t>(inside1 - inside0));
      for (int64_t x = std::max(inside1, r.x0); x < r.x1; ++x) {
        const int64_t k = border_index(x, w, mode);
        row[x - r.x0] = k < 0 ? 0.0f : line[k];
      }
    }
  }
}

void fill_border(const View& view, int64_t h, int64_t w, Border mode) {
  const Rect& r = view.rect;
  const Rect inside = intersect(r, {0, 0, h, w});
  if (contains({0, 0, h, w}, r)) return;
  for (int64_t c = 0; c < view.channels; ++c) {
    for (int64_t y = inside.y0; y < inside.y1; ++y) {
      float* row = at(view, c, y, 0);
      for (int64_t x = r.x0; x < inside.x0; ++x) {
        const int64_t k = border_index(x, w, mode);
        row[x] = k < 0 ? 0.0f : row[k];
      }
      for (int64_t x = inside.x1; x < r.x1; ++x) {
        const int64_t k = border_index(x, w, mode);
        row[x] = k < 0 ? 0.0f : row[k];
      }
    }
    const size_t bytes = sizeof(float) * static_cast<size_t>(width(r));
    for (int64_t y = r.y0; y < r.y1; ++y) {
      if (y >= inside.y0 && y < inside.y1) continue;
      const int64_t k = border_index(y, h, mode);
      if (k < 0) {
        std::memset(at(view, c, y, r.x0), 0, bytes);
      } else {
        std::memcpy(at(view, c, y, r.x0), at(view, c, k, r.x0), bytes);
      }
    }
  }
}

}  // namespace fastsr
