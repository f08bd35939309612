// SPDX-License-Identifier: Apache-2.0
// conv2d by Winograd F(4 x 4, 3 x 3), for many channels in and out: 36 products for the 144 of 4 x 4 pixels.
//
//     Y = A' [(G w G') . (B' X B)] A,  points 0, +-3/4, +-3/2, inf in both directions
//
// These points instead of the usual 0, +-1, +-2 leave a third of the rounding error (256 channels: 3.3e-6 of the largest
// output against 9.8e-6; direct 2.8e-7), and their squares and products are exact.
//
// A task's tiles are the columns of 36 matrix products [Co x Ci] [Ci x tiles], so lanes are tiles. Tiles lie at absolute
// multiples of 4 plus spec.blocks, so that a pixel is computed alike in every task.
#pragma once

#include "core/kernel.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

struct Tiles {
  static constexpr int kSide = 4, kEdge = 6, kPoints = kEdge * kEdge;
  static constexpr double kA = 0.75, kB = 1.5;
};

// The first pixel of the tile that pixel y lies in, when tiles begin at multiples of 4 plus `phase`.
FASTSR_INLINE int64_t tile_start(int64_t y, int64_t phase) {
  const int64_t s = Tiles::kSide, from = y - phase;
  return (from >= 0 ? from / s : -((s - 1 - from) / s)) * s + phase;
}

// Offsets, in floats, of what a task has in scratch.
struct TilesRoom {
  int64_t rows, columns;     // of tiles
  int64_t line;              // floats from a channel to the next: tiles, rounded up
  int64_t point_in, point_out;  // from a point to the next
  int64_t made, lines, wide, total;

  TilesRoom(const Spec& spec, const Rect& out) {
    const Blocks& b = spec.blocks;
    rows = (out.y1 - tile_start(out.y0, b.y) + Tiles::kSide - 1) / Tiles::kSide;
    columns = (out.x1 - tile_start(out.x0, b.x) + Tiles::kSide - 1) / Tiles::kSide;
    place(spec);
  }
  // What a rectangle of this size needs at most, wherever it begins.
  static int64_t most(const Spec& spec, const Rect& out) {
    TilesRoom room;
    room.rows = height(out) / Tiles::kSide + 2;
    room.columns = width(out) / Tiles::kSide + 2;
    room.place(spec);
    return room.total;
  }

 private:
  TilesRoom() {}
  void place(const Spec& spec) {
    // A vector that begins at the last tile of a row ends beyond the last row. An odd number of cache lines to the next
    // channel, and one more to the next point, spreads them over the cache's sets.
    line = round_up(rows * columns + kLanes, 16) | 16;
    point_in = spec.channels_in * line + 16;
    point_out = spec.channels_out * line + 16;
    made = Tiles::kPoints * point_in;
    lines = made + Tiles::kPoints * point_out;
    wide = round_up(Tiles::kSide * columns + 2, kLanes) + 4 * kLanes;
    total = lines + (Tiles::kEdge * 2 + Tiles::kSide) * wide;
  }
};

// [Co][Ci][3][3] -> [points][Co / group][Ci][group]
int64_t tiles_packed_floats(const Spec& spec, int64_t group) {
  return Tiles::kPoints * round_up(spec.channels_out, group) * spec.channels_in;
}

void pack_tiles(const Spec& spec, int64_t group, float* to) {
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
  const int64_t ci = spec.channels_in, co = round_up(spec.channels_out, group);
  __builtin_memset(to, 0, static_cast<size_t>(tiles_packed_floats(spec, group)) * sizeof(float));
  for (int64_t o = 0; o < spec.channels_out; ++o)
    for (int64_t i = 0; i < ci; ++i) {
      const float* w = spec.weights[0].data + (o * ci + i) * 9;
      for (int p = 0; p < Tiles::kEdge; ++p)
        for (int q = 0; q < Tiles::kEdge; ++q) {
          double sum = 0;
          for (int t = 0; t < 3; ++t)
            for (int u = 0; u < 3; ++u) sum += g[p][t] * g[q][u] * static_cast<double>(w[3 * t + u]);
          to[(((p * Tiles::kEdge + q) * (co / group) + o / group) * ci + i) * group + o % group] =
              static_cast<float>(sum);
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

template <typename Act>
FASTSR_INLINE void transform_tiles(const Args& a, const TilesRoom& room, Act act) {
  const View& in = a.in[0];
  const Rect& out = a.out.rect;
  const Blocks& b = a.spec->blocks;
  float* const scratch = static_cast<float*>(a.scratch);
  float* const made = scratch + room.lines;                       // six rows, transformed down
  float* const copies = made + Tiles::kEdge * room.wide;          // six rows, where they are not in the image
  const int64_t s = Tiles::kSide, y0 = tile_start(out.y0, b.y), x0 = tile_start(out.x0, b.x);
  const int64_t n = s * room.columns + 2;
  for (int64_t c = 0; c < a.spec->channels_in; ++c)
    for (int64_t r = 0; r < room.rows; ++r) {
      const float* rows[6];
      for (int i = 0; i < 6; ++i) rows[i] = row_or_copy(in, c, y0 + s * r - 1 + i, x0 - 1, n, copies + i * room.wide);
      for (int64_t x = 0; x < n; x += kLanes) {
        vf d[6], v[6];
        FASTSR_UNROLL
        for (int i = 0; i < 6; ++i) d[i] = act(load(rows[i] + x));
        tile_in(d, v);
        FASTSR_UNROLL
        for (int i = 0; i < 6; ++i) store(made + i * room.wide + x, v[i]);
      }
      float* to = scratch + c * room.line + r * room.columns;
      for (int64_t t = 0; t < room.columns; t += kLanes) {
        for (int p = 0; p < 6; ++p) {
          const float* from = made + p * room.wide + s * t;
          vf d[6], v[6], next[4];
          deinterleave4(from, d);
          deinterleave4(from + 4, next);
          d[4] = next[0];
          d[5] = next[1];
          tile_in(d, v);
          FASTSR_UNROLL
          for (int q = 0; q < 6; ++q) store(to + (p * 6 + q) * room.point_in + t, v[q]);
        }
      }
    }
}

// G channels and V vectors of tiles of one point.
template <int G, int V>
FASTSR_INLINE void tile_products(const float* w, const float* x, int64_t channels, int64_t line, float* to, int64_t step,
                                 int64_t exist) {
  vf sum[G][V];
  FASTSR_UNROLL
  for (int g = 0; g < G; ++g)
    for (int v = 0; v < V; ++v) sum[g][v] = set1(0.0f);
  for (int64_t c = 0; c < channels; ++c, w += G, x += line) {
    vf value[V];
    FASTSR_UNROLL
    for (int v = 0; v < V; ++v) value[v] = load(x + v * kLanes);
    FASTSR_UNROLL
    for (int g = 0; g < G; ++g) {
      const vf weight = set1(w[g]);
      FASTSR_UNROLL
      for (int v = 0; v < V; ++v) sum[g][v] = fmadd(value[v], weight, sum[g][v]);
    }
  }
  FASTSR_UNROLL
  for (int g = 0; g < G; ++g)
    for (int v = 0; v < V; ++v)
      if (g < exist) store(to + g * step + v * kLanes, sum[g][v]);
}

template <int G, int V>
void multiply_tiles(const Args& a, const TilesRoom& room, const float* weights) {
  float* const scratch = static_cast<float*>(a.scratch);
  const int64_t ci = a.spec->channels_in, co = a.spec->channels_out, tiles = room.rows * room.columns;
  for (int p = 0; p < Tiles::kPoints; ++p) {
    const float* w = weights + p * round_up(co, G) * ci;
    const float* x = scratch + p * room.point_in;
    float* to = scratch + room.made + p * room.point_out;
    for (int64_t t = 0; t < tiles; t += V * kLanes) {
      const int64_t vectors = (tiles - t + kLanes - 1) / kLanes;
      for (int64_t c = 0; c < co; c += G) {
        const float* group = w + c * ci;
        float* made = to + c * room.line + t;
        if (vectors >= V) {
          tile_products<G, V>(group, x + t, ci, room.line, made, room.line, co - c);
        } else if (vectors == 2) {
          tile_products<G, 2>(group, x + t, ci, room.line, made, room.line, co - c);
        } else {
          tile_products<G, 1>(group, x + t, ci, room.line, made, room.line, co - c);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fastsr
