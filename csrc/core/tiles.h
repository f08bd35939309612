// SPDX-License-Identifier: Apache-2.0
// Tile grid, halo and border: the only tile arithmetic in the project.
#pragma once

#include <vector>

#include "core/kernel.h"

namespace fastsr {

// `area` cut at absolute multiples of (tile_h, tile_w), so that a tile's place never depends on where the area begins.
struct Grid {
  Rect area;
  int64_t tile_h, tile_w, rows, columns;

  Grid(const Rect& area, int64_t tile_h, int64_t tile_w);
  int64_t count() const { return rows * columns; }
  Rect operator[](int64_t index) const;
};

Rect intersect(const Rect& a, const Rect& b);
Rect unite(const Rect& a, const Rect& b);
bool contains(const Rect& outer, const Rect& inner);

// The image coordinate that border `mode` shows at i, for an axis of n pixels; kZero gives -1 outside.
int64_t border_index(int64_t i, int64_t n, Border mode);

// Fills the part of `view` outside the image [0, h) x [0, w) from its part inside, as `mode` says.
void fill_border(const View& view, int64_t h, int64_t w, Border mode);

// Copies view `from` (inside the image [0, h) x [0, w)) to the whole of `to`, showing border `mode` outside.
void copy_with_border(const View& from, const View& to, int64_t h, int64_t w, Border mode);

}  // namespace fastsr
