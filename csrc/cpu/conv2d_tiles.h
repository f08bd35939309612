// SPDX-License-Identifier: Apache-2.0
// conv2d by Winograd F(S x S, 3 x 3), for many channels: S = 4 makes 36 products for the 144 of 4 x 4 pixels, S = 6
// 64 for the 324 of 6 x 6.
//
//     Y = A' [(G w G') . (B' X B)] A,  points in both directions 0, +-3/4, +-3/2, inf or 0, +-1/2, +-1, +-2, inf
//
// A task's tiles are the columns of (S + 2)^2 matrix products [Co x Ci] [Ci x tiles], so lanes are tiles. Tiles lie at
// absolute multiples of S plus spec.blocks, so that a pixel is computed alike in every task.
//
// Error, rms over the output's rms for 256 channels of noise after relu, simulated (direct: 2e-7 to 3e-7):
//     sums of so many products at once      256      64      32      16
//     S = 4, 0, +-1, +-2                2.4e-6
//     S = 4                             1.3e-6  0.8e-6  0.6e-6  0.6e-6
//     S = 6                             5.2e-6  3.0e-6  2.5e-6  2.3e-6
// With exact sums S = 6 has 1.2e-6: the rounding of a long sum is most of it, and the output transform enlarges it. So
// products are summed in runs of kRun, which are then added.
#pragma once

#include "core/kernel.h"
#include "cpu/conv2d_parts.h"
#include "cpu/conv2d_tiles_bf16.h"
#include "cpu/conv2d_tiles_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

// A vector of a row from x on, zeros where there is no pixel. `row` points at the pixel of x = from.
FASTSR_INLINE vf load_inside(const float* row, int64_t x, int64_t from, int64_t to) {
  if (x >= from && x + kLanes <= to) return load(row + (x - from));
  return load_masked(row + (x - from), without(first(max(0, to - x)), first(max(0, from - x))));
}

// A row of S vectors and two floats more from x on, of a channel, transformed across: to [kEdge][kLanes]. The same row of
// channel `next` is fetched: rows are too short for the hardware to see them coming.
template <int S, typename Act>
FASTSR_INLINE void transform_across(const Channel& from, const Channel& next, int64_t y, int64_t x, Act act,
                                    float* to) {
  constexpr int kEdge = Tiles<S>::kEdge;
  const Rect& r = from.view->rect;
  vf row[S], d[kEdge], v[kEdge];
  float beyond[2] = {0, 0};
  if (y < r.y0 || y >= r.y1) {
    FASTSR_UNROLL
    for (int q = 0; q < kEdge; ++q) store(to + q * kLanes, set1(0.0f));
    return;
  }
  const float* pixels = at(*from.view, from.c, y, r.x0);
  const float* coming = at(*next.view, next.c, y, max(x, r.x0));
  FASTSR_UNROLL
  for (int k = 0; k <= S * kLanes / 16; ++k) __builtin_prefetch(coming + 16 * k, 0, 3);
  FASTSR_UNROLL
  for (int k = 0; k < S; ++k) row[k] = act(load_inside(pixels, x + k * kLanes, r.x0, r.x1));
  const int64_t end = x + S * kLanes;
  for (int k = 0; k < 2; ++k)
    if (end + k >= r.x0 && end + k < r.x1) beyond[k] = pixels[end + k - r.x0];
  lanes_to_tiles(row, act(set1(beyond[0])), act(set1(beyond[1])), d);
  tile_in(d, v);
  FASTSR_UNROLL
  for (int q = 0; q < kEdge; ++q) store(to + q * kLanes, v[q]);
}

// Of 16 tiles beside each other, row by row of tiles, which share two rows of pixels.
template <int S, typename Act>
FASTSR_INLINE void transform_tiles(const Args& a, const Band<S>& room, Act act) {
  constexpr int kEdge = Tiles<S>::kEdge;
  alignas(64) float across[kEdge][kEdge * kLanes];  // row y of pixels is across[y % kEdge]
  for (int64_t c = 0; c < a.spec->channels_in; ++c) {
    const Channel from = channel_of(a, c), next = channel_of(a, min(c + 1, a.spec->channels_in - 1));
    float* const channel = static_cast<float*>(a.scratch) + c * room.line;
    for (int64_t t = 0; t < room.columns; t += kLanes) {
      const mask exist = first(room.columns - t);
      for (int64_t r = 0; r < room.rows; ++r) {
        for (int64_t i = S * r + (r ? 2 : 0); i < S * r + kEdge; ++i)
          transform_across<S>(from, next, room.y - 1 + i, room.x - 1 + S * t, act, across[i % kEdge]);
        const float* rows[kEdge];
        for (int i = 0; i < kEdge; ++i) rows[i] = across[(S * r + i) % kEdge];
        float* const to = channel + r * room.columns + t;
        for (int q = 0; q < kEdge; ++q) {
          vf d[kEdge], v[kEdge];
          FASTSR_UNROLL
          for (int i = 0; i < kEdge; ++i) d[i] = load(rows[i] + q * kLanes);
          tile_in(d, v);
          if (room.columns - t >= kLanes) {
            FASTSR_UNROLL
            for (int p = 0; p < kEdge; ++p) store(to + (p * kEdge + q) * room.point_in, v[p]);
          } else {
            FASTSR_UNROLL
            for (int p = 0; p < kEdge; ++p) store_masked(to + (p * kEdge + q) * room.point_in, v[p], exist);
          }
        }
      }
    }
  }
}

// So many products are summed before they are added to the others, see above. 64 is 4 % faster, and twice as far from
// float64 in crnet_b_small_x4 on noise.
constexpr int64_t kRun = 32;

// G channels and V vectors of tiles of one point. Weights come from L3: half as fast unless they are fetched ahead.
template <int G, int V>
FASTSR_INLINE void tile_products(const float* w, const float* x, int64_t channels, int64_t line, float* to,
                                 int64_t step, int64_t exist) {
  for (int64_t c = 0; c < channels;) {
    const bool more = c > 0;
    vf sum[G][V];
    FASTSR_UNROLL
    for (int g = 0; g < G; ++g)
      for (int v = 0; v < V; ++v) sum[g][v] = set1(0.0f);
    for (const int64_t end = min(channels, c + kRun); c < end; ++c, w += G, x += line) {
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
    if (more) {
      FASTSR_UNROLL
      for (int g = 0; g < G; ++g)
        for (int v = 0; v < V; ++v)
          if (g < exist) sum[g][v] = add(sum[g][v], load(to + g * step + v * kLanes));
    }
    FASTSR_UNROLL
    for (int g = 0; g < G; ++g)
      for (int v = 0; v < V; ++v)
        if (g < exist) store(to + g * step + v * kLanes, sum[g][v]);
  }
}

// Outputs [c0, c0 + count) of a band at every point.
template <int S, int G, int V>
void multiply_tiles(const Args& a, const Band<S>& room, const float* weights, int64_t c0, int64_t count) {
  float* const scratch = static_cast<float*>(a.scratch);
  const int64_t ci = a.spec->channels_in, co = a.spec->channels_out, tiles = room.rows * room.columns;
  Ahead<S> ahead(a, room, c0, count);
  const int64_t products = Tiles<S>::kPoints * ((tiles + V * kLanes - 1) / (V * kLanes)) * ((count + G - 1) / G);
  const int64_t share = ahead.pieces / products + 1;
  for (int p = 0; p < Tiles<S>::kPoints; ++p) {
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

// Ends a band's outputs [c0, c0 + count), channel by channel.
template <int S>
void finish_tiles(const Args& a, const Band<S>& room, const float* bias, int64_t c0, int64_t count) {
  const Rect& rect = a.out.rect;
  const int64_t left = max(rect.x0, room.x), right = min(rect.x1, room.x + S * room.columns);
  float* const lines = static_cast<float*>(a.scratch) + room.lines;
  for (int64_t c = 0; c < count; ++c)
    for (int64_t r = 0; r < room.rows; ++r) {
      transform_out(a, room, c, r, lines);
      for (int i = 0; i < S; ++i) {
        const int64_t y = room.y + S * r + i;
        if (y < rect.y0 || y >= rect.y1) continue;
        const float* line = lines + i * room.wide + (left - room.x);
        for (int64_t x = left; x < right; x += 4 * kLanes, line += 4 * kLanes) {
          vf sum[1][4];
          for (int v = 0; v < 4; ++v) sum[0][v] = add(load(line + v * kLanes), set1(bias[c0 + c]));
          finish<kChannelsFrom>(a, c0 + c, sum, at(a.out, c0 + c, y, x), 0, residual_at(a, c0 + c, y, x), 0, 1,
                                right - x);
        }
      }
    }
}

template <int S, typename Act>
void tiles(const Args& a, Act act) {
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const Rect& rect = a.out.rect;
  const int64_t s = S, y0 = block_start(rect.y0, s, a.spec->blocks.y), x0 = block_start(rect.x0, s, a.spec->blocks.x);
  const Bands<S> bands = Bands<S>::of(*a.spec, rect);
  const int64_t chunk = chunk_channels<S>(*a.spec);
  for (int64_t r = 0; r < bands.rows; r += bands.band_rows)
    for (int64_t t = 0; t < bands.columns; t += bands.band_columns) {
      Band<S> band(*a.spec, min(bands.band_rows, bands.rows - r), min(bands.band_columns, bands.columns - t));
      band.y = y0 + s * r;
      band.x = x0 + s * t;
#if defined(FASTSR_BF16)
      if constexpr (S == 4) {
        if (a.spec->bf16) {
          transform_pairs(a, band, act);
          for (int64_t c = 0; c < a.spec->channels_out; c += chunk) {
            const int64_t count = min(chunk, a.spec->channels_out - c);
            multiply_pairs(a, band, base + head->weights, c, count);
            finish_pairs(a, band, base + head->bias, c, count);
          }
          continue;
        }
      }
#endif
      transform_tiles(a, band, act);
      for (int64_t c = 0; c < a.spec->channels_out; c += chunk) {
        const int64_t count = min(chunk, a.spec->channels_out - c);
        multiply_tiles<S, kGroup, kWide>(a, band, base + head->weights, c, count);
        finish_tiles(a, band, base + head->bias, c, count);
      }
    }
}

}  // namespace
}  // namespace fastsr
