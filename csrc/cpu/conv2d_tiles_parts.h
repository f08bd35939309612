// SPDX-License-Identifier: Apache-2.0
// What the fp32 and bf16 forms of conv2d_tiles.h share: bands of tiles, their places in scratch, packing, transforms.
#pragma once

#include "core/kernel.h"
#include "cpu/conv2d_bf16.h"
#include "cpu/conv2d_parts.h"
#include "cpu/conv2d_tiles_points.h"
#include "cpu/simd.h"

namespace fastsr {

namespace platform {
int64_t l2_bytes();  // core/platform.h, which includes what a kernel may not
}

namespace {

// Bytes of this CPU's L2; where they are not known, or fewer, 1 MB.
FASTSR_INLINE int64_t l2_bytes() {
  static int64_t kept = 0;  // asking takes microseconds on a virtual machine
  int64_t bytes = __atomic_load_n(&kept, __ATOMIC_RELAXED);
  if (!bytes) {
    bytes = max(platform::l2_bytes(), 1 << 20);
    __atomic_store_n(&kept, bytes, __ATOMIC_RELAXED);
  }
  return bytes;
}

// A task's tiles are done band by band, and a band's outputs chunk by chunk. A chunk's products stay in L2 until they are
// transformed, which matters most: three eighths of it. The transformed maps of a band stay there for few channels; for
// many those of one point do, and a longer band makes more of the weights, (S + 2)^2 Ci Co numbers that come from L3.
// Sizes were chosen on a Zen 4 with 1 MB (docs/performance.md). None of them changes a result.
FASTSR_INLINE bool few_channels(const Spec& spec) { return spec.channels_in <= 96; }
FASTSR_INLINE int64_t band_tiles(const Spec& spec) {
  if (spec.bf16) return few_channels(spec) ? 64 : 128;
  return few_channels(spec) || (spec.channels_in <= 128 && l2_bytes() < 2 << 20) ? 48 : 96;
}
template <int S>
FASTSR_INLINE int64_t chunk_channels(const Spec& spec) {
  if (spec.bf16) return min(round_up(spec.channels_out, kOutputs), few_channels(spec) ? 32 : 256);
  const int64_t channel = Tiles<S>::kPoints * band_tiles(spec) * static_cast<int64_t>(sizeof(float));
  return min(spec.channels_out, max(16, min(64, l2_bytes() * 3 / 8 / channel / 16 * 16)));
}
// Rows of a point's transformed maps: channels, or pairs of them.
FASTSR_INLINE int64_t rows_in(const Spec& spec) { return spec.bf16 ? pair_rows(spec.channels_in) : spec.channels_in; }

// A band of tiles, and offsets, in floats, of what it has in scratch.
template <int S>
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
    point_out = chunk_channels<S>(spec) * line + 16;
    made = Tiles<S>::kPoints * point_in;
    lines = made + Tiles<S>::kPoints * point_out;
    wide = round_up(S * columns + 2, kLanes) + S * kLanes;
    total = lines + (spec.bf16 ? 3 * Tiles<S>::kEdge + 2 * S : S) * wide;
  }
};

// How many rows and columns of tiles the bands of a rectangle have.
template <int S>
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
    const int64_t s = S;
    return Bands(spec, (out.y1 - block_start(out.y0, s, spec.blocks.y) + s - 1) / s,
                 (out.x1 - block_start(out.x0, s, spec.blocks.x) + s - 1) / s);
  }
};

// How many tiles' time the products of a band take: two vectors at once are as fast as three where all of a point's maps
// are in L1 (128 channels on Zen 4), a fourth that is left over makes it two and two.
FASTSR_INLINE int64_t products_time(int64_t tiles) {
  const int64_t vectors = (tiles + kLanes - 1) / kLanes;
  return kLanes * vectors + (vectors % 3 == 1 ? kLanes / 4 : 0);
}

// Scratch for any rectangle up to this size, wherever it begins: a smaller one may be done in larger bands.
template <int S>
int64_t tiles_scratch_floats(const Spec& spec, const Rect& out) {
  const int64_t tiles = (height(out) / S + 2) * (width(out) / S + 2);
  return Band<S>(spec, 1, min(tiles, band_tiles(spec))).total;
}

// [Co][Ci][3][3] -> [points][Co / group][Ci][group]
template <int S>
int64_t tiles_packed_floats(const Spec& spec, int64_t group) {
  if (spec.bf16) return Tiles<S>::kPoints * matrix_floats(spec.channels_out, spec.channels_in);
  return Tiles<S>::kPoints * round_up(spec.channels_out, group) * spec.channels_in;
}

// The kernel (o, i) at every point.
template <int S>
void kernel_at_points(const Spec& spec, int64_t o, int64_t i, double* to) {
  constexpr int kEdge = Tiles<S>::kEdge;
  double g[kEdge][3];
  for (int p = 0; p < kEdge; ++p) weights_at_point<S>(p, g[p]);
  const float* w = spec.weights[0].data + (o * spec.channels_in + i) * 9;
  for (int p = 0; p < kEdge; ++p)
    for (int q = 0; q < kEdge; ++q) {
      double sum = 0;
      for (int t = 0; t < 3; ++t)
        for (int u = 0; u < 3; ++u) sum += g[p][t] * g[q][u] * static_cast<double>(w[3 * t + u]);
      to[p * kEdge + q] = sum;
    }
}

template <int S>
void pack_tiles(const Spec& spec, int64_t group, float* to) {
  const int64_t ci = spec.channels_in, co = spec.channels_out;
  __builtin_memset(to, 0, static_cast<size_t>(tiles_packed_floats<S>(spec, group)) * sizeof(float));
  for (int64_t o = 0; o < co; ++o)
    for (int64_t i = 0; i < ci; ++i) {
      double at_points[Tiles<S>::kPoints];
      kernel_at_points<S>(spec, o, i, at_points);
      for (int p = 0; p < Tiles<S>::kPoints; ++p) {
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

// Fetches, a little at a time while there is something else to do, the rows that the end of a chunk adds and writes: the
// pieces of a band are too short for the hardware to see them coming.
template <int S>
struct Ahead {
  const View* views[2];  // the output and the residual, or null
  bool pairs[2];         // whether two channels of a view share a row
  int64_t c, y, y0, y1, x0, x1, pieces;

  Ahead(const Args& a, const Band<S>& band, int64_t c0, int64_t count)
      : views{a.large ? nullptr : &a.out, residual_of(a)}, pairs{a.spec->pairs_out, residual_in_pairs(*a.spec)}, c(c0) {
    const Rect& r = a.out.rect;
    y = y0 = max(r.y0, band.y);
    y1 = min(r.y1, band.y + S * band.rows);
    x0 = max(r.x0, band.x);
    x1 = min(r.x1, band.x + S * band.columns);
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

// The output transform of row r of tiles of a band's output c: S rows of pixels, to [S][wide].
template <int S>
FASTSR_INLINE void transform_out(const Args& a, const Band<S>& room, int64_t c, int64_t r, float* lines) {
  constexpr int kEdge = Tiles<S>::kEdge;
  const float* from = static_cast<const float*>(a.scratch) + room.made + c * room.line + r * room.columns;
  for (int64_t t = 0; t < room.columns; t += kLanes) {
    vf down[S][kEdge];
    FASTSR_UNROLL
    for (int q = 0; q < kEdge; ++q) {
      vf m[kEdge], y[S];
      FASTSR_UNROLL
      for (int p = 0; p < kEdge; ++p) m[p] = load(from + (p * kEdge + q) * room.point_out + t);
      tile_out(m, y);
      FASTSR_UNROLL
      for (int i = 0; i < S; ++i) down[i][q] = y[i];
    }
    FASTSR_UNROLL
    for (int i = 0; i < S; ++i) {
      vf y[S];
      tile_out(down[i], y);
      tiles_to_lanes(y, lines + i * room.wide + S * t);
    }
  }
}

}  // namespace
}  // namespace fastsr
