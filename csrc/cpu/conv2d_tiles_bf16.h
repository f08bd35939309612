// SPDX-License-Identifier: Apache-2.0
// conv2d_tiles.h in products of bfloat16: the same Winograd, whose transformed maps are rows of pairs of channels.
#pragma once

#include "core/kernel.h"
#include "cpu/conv2d_bf16.h"
#include "cpu/conv2d_parts.h"
#include "cpu/conv2d_tiles_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

#if defined(FASTSR_BF16)

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
FASTSR_INLINE void transform_down(const Channel& from, const Band<4>& room, int64_t r, Act act, float* copies,
                                  float* to) {
  const int64_t s = Tiles<4>::kSide, n = s * room.columns + 2;
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

// Of two channels, which lie in one row of pairs.
template <typename Act>
FASTSR_INLINE void transform_pair_down(const Pair& pair, const Band<4>& room, int64_t r, Act act, float* copies,
                                       float* even, float* odd) {
  const int64_t s = Tiles<4>::kSide, n = s * room.columns + 2;
  const float* rows[6];
  for (int i = 0; i < 6; ++i)
    rows[i] = row_or_copy(*pair.even, pair.even_row, room.y + s * r - 1 + i, room.x - 1, n, copies + i * room.wide);
  for (int64_t x = 0; x < n; x += kLanes) {
    vf d[6], e[6], v[6];
    FASTSR_UNROLL
    for (int i = 0; i < 6; ++i) {
      const vf pairs = load(rows[i] + x);
      d[i] = act(even_of(pairs));
      e[i] = act(odd_of(pairs));
    }
    tile_in(d, v);
    FASTSR_UNROLL
    for (int i = 0; i < 6; ++i) store(even + i * room.wide + x, v[i]);
    tile_in(e, v);
    FASTSR_UNROLL
    for (int i = 0; i < 6; ++i) store(odd + i * room.wide + x, v[i]);
  }
}

// As transform_tiles, two channels to a row of pairs.
template <typename Act>
FASTSR_INLINE void transform_pairs(const Args& a, const Band<4>& room, Act act) {
  float* const scratch = static_cast<float*>(a.scratch);
  float* const made = scratch + room.lines;
  float* const odd = made + Tiles<4>::kEdge * room.wide;
  float* const copies = odd + Tiles<4>::kEdge * room.wide;
  const int64_t ci = a.spec->channels_in, tiles = round_up(room.rows * room.columns, kLanes);
  Pairs all(a);
  for (int64_t k = 0; k < pair_rows(ci); ++k) {
    const Pair pair = all.next();
    if (!pair.even) {  // padding
      for (int p = 0; p < Tiles<4>::kPoints; ++p)
        for (int64_t t = 0; t < tiles; t += kLanes) store(scratch + p * room.point_in + k * room.line + t, set1(0.0f));
      continue;
    }
    for (int64_t r = 0; r < room.rows; ++r) {
      if (pair.together) {
        transform_pair_down(pair, room, r, act, copies, made, odd);
      } else {
        transform_down({pair.even, pair.even_row}, room, r, act, copies, made);
        if (pair.odd) {
          transform_down({pair.odd, pair.odd_row}, room, r, act, copies, odd);
        } else {
          __builtin_memset(odd, 0, static_cast<size_t>(Tiles<4>::kEdge * room.wide) * sizeof(float));
        }
      }
      float* to = scratch + k * room.line + r * room.columns;
      for (int64_t t = 0; t < room.columns; t += kLanes)
        for (int p = 0; p < 6; ++p) {
          vf v[6], w[6];
          transform_across(made + p * room.wide + Tiles<4>::kSide * t, v);
          transform_across(odd + p * room.wide + Tiles<4>::kSide * t, w);
          FASTSR_UNROLL
          for (int q = 0; q < 6; ++q) store(to + (p * 6 + q) * room.point_in + t, to_pairs(v[q], w[q]));
        }
    }
  }
}

void multiply_pairs(const Args& a, const Band<4>& room, const float* weights, int64_t c0, int64_t count) {
  const TileUnit unit;
  (void)unit;
  float* const scratch = static_cast<float*>(a.scratch);
  const int64_t ci = a.spec->channels_in, tiles = room.rows * room.columns;
  Ahead<4> ahead(a, room, c0, count);
  const int64_t blocks = ((tiles + 31) / 32) * ((count + kOutputs - 1) / kOutputs);
  const int64_t share = ahead.pieces / (Tiles<4>::kPoints * blocks) + 1;
  const int64_t matrix = matrix_floats(a.spec->channels_out, ci);
  // The next point's weights come from L3 while this one's are used.
  const int64_t lines = (round_up(count, kOutputs) * pair_rows(ci) / 16) / (blocks * pair_rows(ci) / 16) + 1;
  const float *w = weights, *next = nullptr;
  const auto fetch = [&] {
    for (int64_t i = 0; i < lines; ++i, next += 16) __builtin_prefetch(next, 0, 2);
  };
  for (int p = 0; p < Tiles<4>::kPoints; ++p, w += matrix) {
    next = w + matrix + c0 * pair_rows(ci);
    for (int64_t t = 0; t < tiles; t += 2 * kLanes)
      for (int64_t c = 0; c < count; c += kOutputs) {
        ahead.fetch(share);
        bf16_products(w, ci, c0 + c, {scratch + p * room.point_in + t, room.line}, tiles - t <= kLanes,
                      scratch + room.made + p * room.point_out + c * room.line + t, room.line, fetch);
      }
  }
}

// Ends a band's outputs [c0, c0 + count), two by two.
void finish_pairs(const Args& a, const Band<4>& room, const float* bias, int64_t c0, int64_t count) {
  const Rect& rect = a.out.rect;
  const int64_t left = max(rect.x0, room.x), right = min(rect.x1, room.x + Tiles<4>::kSide * room.columns);
  float* const lines = static_cast<float*>(a.scratch) + room.lines + 3 * Tiles<4>::kEdge * room.wide;
  const int64_t second = Tiles<4>::kSide * room.wide;
  for (int64_t c = 0; c < count; c += 2)
    for (int64_t r = 0; r < room.rows; ++r) {
      const bool both = c + 1 < count;
      transform_out(a, room, c, r, lines);
      if (both) transform_out(a, room, c + 1, r, lines + second);
      for (int i = 0; i < 4; ++i) {
        const int64_t y = room.y + 4 * r + i;
        if (y < rect.y0 || y >= rect.y1) continue;
        const float* line = lines + i * room.wide + (left - room.x);
        for (int64_t x = left; x < right; x += 2 * kLanes, line += 2 * kLanes) {
          vf sum[2][2];
          for (int v = 0; v < 2; ++v) {
            sum[0][v] = add(load(line + v * kLanes), set1(bias[c0 + c]));
            sum[1][v] = both ? add(load(line + second + v * kLanes), set1(bias[c0 + c + 1])) : set1(0.0f);
          }
          end_two(a, c0 + c, sum, both, out_at(a, c0 + c, y, x), residuals_at(a, c0 + c, y, x), right - x);
        }
      }
    }
}

#endif

}  // namespace
}  // namespace fastsr
