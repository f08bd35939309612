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
#include "cpu/bf16.h"
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
    total = lines + (Tiles::kEdge * 3 + Tiles::kSide) * wide;
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

// Six rows from row `r` of tiles of channel c, transformed down: to [6][wide].
template <typename Act>
FASTSR_INLINE void transform_down(const Args& a, const Band& room, int64_t c, int64_t r, Act act, float* copies,
                                  float* to) {
  const int64_t s = Tiles::kSide, n = s * room.columns + 2;
  const float* rows[6];
  for (int i = 0; i < 6; ++i)
    rows[i] = row_or_copy(a.in[0], c, room.y + s * r - 1 + i, room.x - 1, n, copies + i * room.wide);
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

template <typename Act>
FASTSR_INLINE void transform_tiles(const Args& a, const Band& room, Act act) {
  float* const scratch = static_cast<float*>(a.scratch);
  float* const made = scratch + room.lines;
  float* const copies = made + 2 * Tiles::kEdge * room.wide;  // of rows that are not in the image
  for (int64_t c = 0; c < a.spec->channels_in; ++c)
    for (int64_t r = 0; r < room.rows; ++r) {
      transform_down(a, room, c, r, act, copies, made);
      float* to = scratch + c * room.line + r * room.columns;
      for (int64_t t = 0; t < room.columns; t += kLanes)
        for (int p = 0; p < 6; ++p) {
          vf v[6];
          transform_across(made + p * room.wide + Tiles::kSide * t, v);
          FASTSR_UNROLL
          for (int q = 0; q < 6; ++q) store(to + (p * 6 + q) * room.point_in + t, v[q]);
        }
    }
}

#if defined(FASTSR_BF16)

// As above, two channels to a row of pairs.
template <typename Act>
FASTSR_INLINE void transform_pairs(const Args& a, const Band& room, Act act) {
  float* const scratch = static_cast<float*>(a.scratch);
  float* const made = scratch + room.lines;
  float* const odd = made + Tiles::kEdge * room.wide;
  float* const copies = odd + Tiles::kEdge * room.wide;
  const int64_t ci = a.spec->channels_in, tiles = round_up(room.rows * room.columns, kLanes);
  for (int64_t k = 0; k < pair_rows(ci); ++k) {
    if (2 * k >= ci) {  // padding
      for (int p = 0; p < Tiles::kPoints; ++p)
        for (int64_t t = 0; t < tiles; t += kLanes) store(scratch + p * room.point_in + k * room.line + t, set1(0.0f));
      continue;
    }
    for (int64_t r = 0; r < room.rows; ++r) {
      transform_down(a, room, 2 * k, r, act, copies, made);
      if (2 * k + 1 < ci) {
        transform_down(a, room, 2 * k + 1, r, act, copies, odd);
      } else {
        __builtin_memset(odd, 0, static_cast<size_t>(Tiles::kEdge * room.wide) * sizeof(float));
      }
      float* to = scratch + k * room.line + r * room.columns;
      for (int64_t t = 0; t < room.columns; t += kLanes)
        for (int p = 0; p < 6; ++p) {
          vf v[6], w[6];
          transform_across(made + p * room.wide + Tiles::kSide * t, v);
          transform_across(odd + p * room.wide + Tiles::kSide * t, w);
          FASTSR_UNROLL
          for (int q = 0; q < 6; ++q) store(to + (p * 6 + q) * room.point_in + t, to_pairs(v[q], w[q]));
        }
    }
  }
}

#endif

// G channels and V vectors of tiles of one point. Weights come from L3: half as fast unless they are fetched ahead.
template <int G, int V>
FASTSR_INLINE void tile_products(const float* w, const float* x, int64_t channels, int64_t line, float* to,
                                 int64_t step, int64_t exist) {
  vf sum[G][V];
  FASTSR_UNROLL
  for (int g = 0; g < G; ++g)
    for (int v = 0; v < V; ++v) sum[g][v] = set1(0.0f);
  for (int64_t c = 0; c < channels; ++c, w += G, x += line) {
    __builtin_prefetch(w + 512, 0, 2);
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

// Fetches, a little at a time while there is something else to do, the rows that the end of a chunk adds and writes: the
// pieces of a band are too short for the hardware to see them coming.
struct Ahead {
  const View* views[2];  // the output and the residual, or null
  int64_t c, y, y0, y1, x0, x1, pieces;

  Ahead(const Args& a, const Band& band, int64_t c0, int64_t count)
      : views{a.large ? nullptr : &a.out, a.spec->inputs == 2 ? &a.in[1] : nullptr}, c(c0) {
    const Rect& r = a.out.rect;
    y = y0 = max(r.y0, band.y);
    y1 = min(r.y1, band.y + Tiles::kSide * band.rows);
    x0 = max(r.x0, band.x);
    x1 = min(r.x1, band.x + Tiles::kSide * band.columns);
    pieces = count * (y1 - y0);
  }
  __attribute__((always_inline)) void fetch(int64_t n) {
    for (; n > 0 && pieces > 0; --n, --pieces) {
      if (views[0])
        for (int64_t x = x0; x < x1; x += 16) __builtin_prefetch(at(*views[0], c, y, x), 1, 2);
      if (views[1])
        for (int64_t x = x0; x < x1; x += 16) __builtin_prefetch(at(*views[1], c, y, x), 0, 2);
      if (++y == y1) y = y0, ++c;
    }
  }
};

// Outputs [c0, c0 + count) of a band at every point.
template <int G, int V>
void multiply_tiles(const Args& a, const Band& room, const float* weights, int64_t c0, int64_t count) {
  float* const scratch = static_cast<float*>(a.scratch);
  const int64_t ci = a.spec->channels_in, co = a.spec->channels_out, tiles = room.rows * room.columns;
  Ahead ahead(a, room, c0, count);
  const int64_t products = Tiles::kPoints * ((tiles + V * kLanes - 1) / (V * kLanes)) * ((count + G - 1) / G);
  const int64_t share = ahead.pieces / products + 1;
  for (int p = 0; p < Tiles::kPoints; ++p) {
    const float* w = weights + p * round_up(co, G) * ci + c0 * ci;
    const float* x = scratch + p * room.point_in;
    float* const to = scratch + room.made + p * room.point_out;
    for (int64_t t = 0, step; t < tiles; t += step * kLanes) {
      const int64_t vectors = (tiles - t + kLanes - 1) / kLanes;
      step = vectors >= V && vectors != V + 1 ? V : min(vectors, 2);  // 3 and 1 take longer than 2 and 2
      for (int64_t c = 0; c < count; c += G) {
        ahead.fetch(share);
        const float* group = w + c * ci;
        float* made = to + c * room.line + t;
        if (step == V) {
          tile_products<G, V>(group, x + t, ci, room.line, made, room.line, count - c);
        } else if (step == 2) {
          tile_products<G, 2>(group, x + t, ci, room.line, made, room.line, count - c);
        } else {
          tile_products<G, 1>(group, x + t, ci, room.line, made, room.line, count - c);
        }
      }
    }
  }
}

#if defined(FASTSR_BF16)

void multiply_pairs(const Args& a, const Band& room, const float* weights, int64_t c0, int64_t count) {
  const TileUnit unit;
  (void)unit;
  float* const scratch = static_cast<float*>(a.scratch);
  const int64_t ci = a.spec->channels_in, tiles = room.rows * room.columns;
  Ahead ahead(a, room, c0, count);
  const int64_t blocks = ((tiles + 31) / 32) * ((count + kOutputs - 1) / kOutputs);
  const int64_t share = ahead.pieces / (Tiles::kPoints * blocks) + 1;
  const int64_t matrix = matrix_floats(a.spec->channels_out, ci);
  // The next point's weights come from L3 while this one's are used.
  const int64_t lines = (round_up(count, kOutputs) * pair_rows(ci) / 16) / (blocks * pair_rows(ci) / 16) + 1;
  const float *w = weights, *next = nullptr;
  const auto fetch = [&] {
    for (int64_t i = 0; i < lines; ++i, next += 16) __builtin_prefetch(next, 0, 2);
  };
  for (int p = 0; p < Tiles::kPoints; ++p, w += matrix) {
    next = w + matrix + c0 * pair_rows(ci);
    for (int64_t t = 0; t < tiles; t += 2 * kLanes)
      for (int64_t c = 0; c < count; c += kOutputs) {
        ahead.fetch(share);
        bf16_products(w, ci, c0 + c, {scratch + p * room.point_in + t, room.line}, tiles - t <= kLanes,
                      scratch + room.made + p * room.point_out + c * room.line + t, room.line, fetch);
      }
  }
}

#endif

// The output transform of a band's outputs [c0, c0 + count), channel by channel.
void finish_tiles(const Args& a, const Band& room, const float* bias, int64_t c0, int64_t count) {
  const Rect& rect = a.out.rect;
  const int64_t left = max(rect.x0, room.x), right = min(rect.x1, room.x + Tiles::kSide * room.columns);
  float* const scratch = static_cast<float*>(a.scratch);
  float* const lines = scratch + room.lines + 3 * Tiles::kEdge * room.wide;
  for (int64_t c = 0; c < count; ++c)
    for (int64_t r = 0; r < room.rows; ++r) {
      const float* from = scratch + room.made + c * room.line + r * room.columns;
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
      for (int i = 0; i < 4; ++i) {
        const int64_t y = room.y + 4 * r + i;
        if (y < rect.y0 || y >= rect.y1) continue;
        const float* line = lines + i * room.wide + (left - room.x);
        for (int64_t x = left; x < right; x += 4 * kLanes, line += 4 * kLanes) {
          vf sum[1][4];
          for (int v = 0; v < 4; ++v) sum[0][v] = add(load(line + v * kLanes), set1(bias[c0 + c]));
          finish(a, sum, at(a.out, c0 + c, y, x), 0, residual_at(a, c0 + c, y, x), 0, 1, right - x);
        }
      }
    }
}

template <typename Act>
void tiles(const Args& a, Act act) {
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const Rect& rect = a.out.rect;
  const int64_t s = Tiles::kSide, y0 = block_start(rect.y0, s, a.spec->blocks.y),
                x0 = block_start(rect.x0, s, a.spec->blocks.x);
  const Bands bands = Bands::of(*a.spec, rect);
  const int64_t chunk = chunk_channels(*a.spec);
  for (int64_t r = 0; r < bands.rows; r += bands.band_rows)
    for (int64_t t = 0; t < bands.columns; t += bands.band_columns) {
      Band band(*a.spec, min(bands.band_rows, bands.rows - r), min(bands.band_columns, bands.columns - t));
      band.y = y0 + s * r;
      band.x = x0 + s * t;
#if defined(FASTSR_BF16)
      if (a.spec->bf16) {
        transform_pairs(a, band, act);
        for (int64_t c = 0; c < a.spec->channels_out; c += chunk) {
          const int64_t count = min(chunk, a.spec->channels_out - c);
          multiply_pairs(a, band, base + head->weights, c, count);
          finish_tiles(a, band, base + head->bias, c, count);
        }
        continue;
      }
#endif
      transform_tiles(a, band, act);
      for (int64_t c = 0; c < a.spec->channels_out; c += chunk) {
        const int64_t count = min(chunk, a.spec->channels_out - c);
        multiply_tiles<kGroup, kWide>(a, band, base + head->weights, c, count);
        finish_tiles(a, band, base + head->bias, c, count);
      }
    }
  if (a.large) fence_past();
}

}  // namespace
}  // namespace fastsr
