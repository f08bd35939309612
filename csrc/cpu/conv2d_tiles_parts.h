// SPDX-License-Identifier: Apache-2.0
// What the fp32 and bf16 forms of conv2d_tiles.h share: bands of tiles, their places in scratch, packing, transforms.
#pragma once

#include "core/kernel.h"
#include "cpu/conv2d_bf16.h"
#include "cpu/conv2d_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

struct Tiles {
  static constexpr int kSide = 4, kEdge = 6, kPoints = kEdge * kEdge;
  static constexpr double kA = 0.75, kB = 1.5;
};

// A task's tiles are done band by band, and a band's outputs chunk by chunk. For few channels that keeps the transformed
// maps of a band, and a chunk's products, in L2; for many only those of one point can stay there, and a longer band makes
// more of the weights, 36 Ci Co numbers that come from L3.
FASTSR_INLINE bool few_channels(const Spec& spec) { return spec.channels_in <= 96; }
FASTSR_INLINE int64_t band_tiles(const Spec& spec) {
  return few_channels(spec) ? (spec.bf16 ? 64 : 48) : spec.bf16 ? 128 : 192;
}
FASTSR_INLINE int64_t chunk_channels(const Spec& spec) {
  return min(round_up(spec.channels_out, spec.bf16 ? kOutputs : 1), few_channels(spec) ? 32 : 256);
}
// Rows of a point's transformed maps: channels, or pairs of them.
FASTSR_INLINE int64_t rows_in(const Spec& spec) { return spec.bf16 ? pair_rows(spec.channels_in) : spec.channels_in; }

// A band of tiles, and offsets, in floats, of what it has in scratch.
struct Band {
  int64_t y, x;                 // its first pixel
  int64_t rows, columns;        // of tiles
  int64_t line;                 // floats from a channel to the next: tiles, rounded up
  int64_t point_in, point_out;  // from a point to the next
  int64_t made, lines, wide, total;

  Band(const Spec& spec, int64_t rows_, int64_t columns_) : y(0), x(0), rows(rows_), columns(columns_) {
    // A vector that begins at the last tile of a row ends beyond the last row. An odd number of cache lines to the next
    // channel, and one more to the next point, spreads them over the cache's sets.
    line = round_up(rows * columns + kLanes, 16) | 16;
    point_in = rows_in(spec) * line + 16;
    point_out = chunk_channels(spec) * line + 16;
    made = Tiles::kPoints * point_in;
    lines = made + Tiles::kPoints * point_out;
    wide = round_up(Tiles::kSide * columns + 2, kLanes) + 4 * kLanes;
    total = lines + (Tiles::kEdge * 3 + Tiles::kSide * (spec.bf16 ? 2 : 1)) * wide;
  }
};

// How many rows and columns of tiles the bands of a rectangle have.
struct Bands {
  int64_t rows, columns, band_rows, band_columns;

  Bands(const Spec& spec, int64_t rows_, int64_t columns_) : rows(rows_), columns(columns_) {
    const int64_t most = band_tiles(spec);
    const int64_t across = (columns + most - 1) / most;
    band_columns = (columns + across - 1) / across;
    band_rows = min(rows, max(1, most / band_columns));
    const int64_t down = (rows + band_rows - 1) / band_rows;
    band_rows = (rows + down - 1) / down;
  }
  static Bands of(const Spec& spec, const Rect& out) {
    const int64_t s = Tiles::kSide;
    return Bands(spec, (out.y1 - block_start(out.y0, s, spec.blocks.y) + s - 1) / s,
                 (out.x1 - block_start(out.x0, s, spec.blocks.x) + s - 1) / s);
  }
};

// How many tiles' time the products of a band take: fewer than three vectors at once leave less to each weight.
FASTSR_INLINE int64_t products_time(int64_t tiles) {
  const int64_t vectors = (tiles + kLanes - 1) / kLanes;
  const int64_t over = vectors % 3;  // 1: two vectors twice instead of three and one
  return kLanes * vectors + (over == 1 ? kLanes / 2 : over == 2 ? kLanes / 4 : 0);
}

// Scratch for any rectangle up to this size, wherever it begins: a smaller one may be done in larger bands.
int64_t tiles_scratch_floats(const Spec& spec, const Rect& out) {
  const int64_t tiles = (height(out) / Tiles::kSide + 2) * (width(out) / Tiles::kSide + 2);
  return Band(spec, 1, min(tiles, band_tiles(spec))).total;
}

// [Co][Ci][3][3] -> [points][Co / group][Ci][group]
int64_t tiles_packed_floats(const Spec& spec, int64_t group) {
  if (spec.bf16) return Tiles::kPoints * matrix_floats(spec.channels_out, spec.channels_in);
  return Tiles::kPoints * round_up(spec.channels_out, group) * spec.channels_in;
}

// The kernel (o, i) at every point.
void kernel_at_points(const Spec& spec, int64_t o, int64_t i, double* to) {
  constexpr double kA = Tiles::kA, kB = Tiles::kB;
  const double points[5] = {0, kA, -kA, kB, -kB};
  double g[Tiles::kEdge][3];
  for (int p = 0; p < 5; ++p) {
    double divisor = 1;
    for (int q = 0; q < 5; ++q)
      if (q != p) divisor *= points[p] - points[q];
    for (int t = 0; t < 3; ++t) g[p][t] = (t == 0 ? 1 : t == 1 ? points[p] : points[p] * points[p]) / divisor;
  }
  for (int t = 0; t < 3; ++t) g[5][t] = t == 2;
  const float* w = spec.weights[0].data + (o * spec.channels_in + i) * 9;
  for (int p = 0; p < Tiles::kEdge; ++p)
    for (int q = 0; q < Tiles::kEdge; ++q) {
      double sum = 0;
      for (int t = 0; t < 3; ++t)
        for (int u = 0; u < 3; ++u) sum += g[p][t] * g[q][u] * static_cast<double>(w[3 * t + u]);
      to[p * Tiles::kEdge + q] = sum;
    }
}

void pack_tiles(const Spec& spec, int64_t group, float* to) {
  const int64_t ci = spec.channels_in, co = spec.channels_out;
  __builtin_memset(to, 0, static_cast<size_t>(tiles_packed_floats(spec, group)) * sizeof(float));
  for (int64_t o = 0; o < co; ++o)
    for (int64_t i = 0; i < ci; ++i) {
      double at_points[Tiles::kPoints];
      kernel_at_points(spec, o, i, at_points);
      for (int p = 0; p < Tiles::kPoints; ++p) {
        const float value = static_cast<float>(at_points[p]);
#if defined(FASTSR_BF16)
        if (spec.bf16) {
          set_weight(to + p * matrix_floats(co, ci), ci, o, i, value);
          continue;
        }
#endif
        to[((p * (round_up(co, group) / group) + o / group) * ci + i) * group + o % group] = value;
      }
    }
}

// B' d of six values.
FASTSR_INLINE void tile_in(const vf (&d)[6], vf (&v)[6]) {
  constexpr float kA = Tiles::kA, kB = Tiles::kB, kA2 = kA * kA, kB2 = kB * kB;
  v[0] = fmadd(d[0], set1(kA2 * kB2), fmadd(d[2], set1(-(kA2 + kB2)), d[4]));
  const vf even = fmadd(d[2], set1(-kB2), d[4]), odd = fmadd(d[1], set1(-kA * kB2), mul(d[3], set1(kA)));
  v[1] = add(even, odd);
  v[2] = sub(even, odd);
  const vf even2 = fmadd(d[2], set1(-kA2), d[4]), odd2 = fmadd(d[1], set1(-kB * kA2), mul(d[3], set1(kB)));
  v[3] = add(even2, odd2);
  v[4] = sub(even2, odd2);
  v[5] = fmadd(d[1], set1(kA2 * kB2), fmadd(d[3], set1(-(kA2 + kB2)), d[5]));
}

// A' m of six values.
FASTSR_INLINE void tile_out(const vf (&m)[6], vf (&y)[4]) {
  constexpr float kA = Tiles::kA, kB = Tiles::kB;
  const vf s1 = add(m[1], m[2]), d1 = sub(m[1], m[2]), s2 = add(m[3], m[4]), d2 = sub(m[3], m[4]);
  y[0] = add(m[0], add(s1, s2));
  y[1] = fmadd(d2, set1(kB), mul(d1, set1(kA)));
  y[2] = fmadd(s2, set1(kB * kB), mul(s1, set1(kA * kA)));
  y[3] = add(fmadd(d2, set1(kB * kB * kB), mul(d1, set1(kA * kA * kA))), m[5]);
}

// The row y of channel c from x on, as a pointer that may be read for `width` and a vector more: where it lies, or copied
// to `line` with zeros where there is none.
FASTSR_INLINE const float* row_or_copy(const View& in, int64_t c, int64_t y, int64_t x, int64_t n, float* line) {
  const Rect& r = in.rect;
  const bool exists = y >= r.y0 && y < r.y1;
  if (exists && x >= r.x0 && x + n <= r.x1) return at(in, c, y, x);
  const int64_t from = max(x, r.x0), to = min(x + n, r.x1);
  for (int64_t i = 0; i < n; i += kLanes) store(line + i, set1(0.0f));
  if (exists && to > from)
    __builtin_memcpy(line + (from - x), at(in, c, y, from), static_cast<size_t>(to - from) * sizeof(float));
  return line;
}

// Six rows from row `r` of tiles of a channel, transformed down: to [6][wide].
template <typename Act>
FASTSR_INLINE void transform_down(const Channel& from, const Band& room, int64_t r, Act act, float* copies, float* to) {
  const int64_t s = Tiles::kSide, n = s * room.columns + 2;
  const float* rows[6];
  for (int i = 0; i < 6; ++i)
    rows[i] = row_or_copy(*from.view, from.c, room.y + s * r - 1 + i, room.x - 1, n, copies + i * room.wide);
  for (int64_t x = 0; x < n; x += kLanes) {
    vf d[6], v[6];
    FASTSR_UNROLL
    for (int i = 0; i < 6; ++i) d[i] = act(load(rows[i] + x));
    tile_in(d, v);
    FASTSR_UNROLL
    for (int i = 0; i < 6; ++i) store(to + i * room.wide + x, v[i]);
  }
}

// A vector of tiles from a row that is transformed down.
FASTSR_INLINE void transform_across(const float* from, vf (&v)[6]) {
  vf d[6], next[4];
  deinterleave4(from, d);
  deinterleave4(from + 4, next);
  d[4] = next[0];
  d[5] = next[1];
  tile_in(d, v);
}

// Fetches, a little at a time while there is something else to do, the rows that the end of a chunk adds and writes: the
// pieces of a band are too short for the hardware to see them coming.
struct Ahead {
  const View* views[2];  // the output and the residual, or null
  bool pairs[2];         // whether two channels of a view share a row
  int64_t c, y, y0, y1, x0, x1, pieces;

  Ahead(const Args& a, const Band& band, int64_t c0, int64_t count)
      : views{a.large ? nullptr : &a.out, residual_of(a)}, pairs{a.spec->pairs_out, residual_in_pairs(*a.spec)}, c(c0) {
    const Rect& r = a.out.rect;
    y = y0 = max(r.y0, band.y);
    y1 = min(r.y1, band.y + Tiles::kSide * band.rows);
    x0 = max(r.x0, band.x);
    x1 = min(r.x1, band.x + Tiles::kSide * band.columns);
    pieces = count * (y1 - y0);
  }
  template <int View, int Write>
  __attribute__((always_inline)) void fetch_row() const {
    if (!views[View] || (pairs[View] && c % 2)) return;
    for (int64_t x = x0; x < x1; x += 16) __builtin_prefetch(at(*views[View], pairs[View] ? c / 2 : c, y, x), Write, 2);
  }
  __attribute__((always_inline)) void fetch(int64_t n) {
    for (; n > 0 && pieces > 0; --n, --pieces) {
      fetch_row<0, 1>();
      fetch_row<1, 0>();
      if (++y == y1) y = y0, ++c;
    }
  }
};

// The output transform of row r of tiles of a band's output c: four rows of pixels, to [4][wide].
FASTSR_INLINE void transform_out(const Args& a, const Band& room, int64_t c, int64_t r, float* lines) {
  const float* from = static_cast<const float*>(a.scratch) + room.made + c * room.line + r * room.columns;
  for (int64_t t = 0; t < room.columns; t += kLanes) {
    vf down[4][6];
    FASTSR_UNROLL
    for (int q = 0; q < 6; ++q) {
      vf m[6], y[4];
      FASTSR_UNROLL
      for (int p = 0; p < 6; ++p) m[p] = load(from + (p * 6 + q) * room.point_out + t);
      tile_out(m, y);
      FASTSR_UNROLL
      for (int i = 0; i < 4; ++i) down[i][q] = y[i];
    }
    FASTSR_UNROLL
    for (int i = 0; i < 4; ++i) {
      vf y[4];
      tile_out(down[i], y);
      interleave4(y, lines + i * room.wide + 4 * t);
    }
  }
}

}  // namespace
}  // namespace fastsr
