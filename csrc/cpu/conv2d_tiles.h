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
#include "cpu/conv2d_parts.h"
#include "cpu/conv2d_tiles_bf16.h"
#include "cpu/conv2d_tiles_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

template <typename Act>
FASTSR_INLINE void transform_tiles(const Args& a, const Band& room, Act act) {
  float* const scratch = static_cast<float*>(a.scratch);
  float* const made = scratch + room.lines;
  float* const copies = made + 2 * Tiles::kEdge * room.wide;  // of rows that are not in the image
  for (int64_t c = 0; c < a.spec->channels_in; ++c)
    for (int64_t r = 0; r < room.rows; ++r) {
      transform_down(channel_of(a, c), room, r, act, copies, made);
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

// Ends a band's outputs [c0, c0 + count), channel by channel.
void finish_tiles(const Args& a, const Band& room, const float* bias, int64_t c0, int64_t count) {
  const Rect& rect = a.out.rect;
  const int64_t left = max(rect.x0, room.x), right = min(rect.x1, room.x + Tiles::kSide * room.columns);
  float* const lines = static_cast<float*>(a.scratch) + room.lines + 3 * Tiles::kEdge * room.wide;
  for (int64_t c = 0; c < count; ++c)
    for (int64_t r = 0; r < room.rows; ++r) {
      transform_out(a, room, c, r, lines);
      for (int i = 0; i < 4; ++i) {
        const int64_t y = room.y + 4 * r + i;
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
          finish_pairs(a, band, base + head->bias, c, count);
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
}

}  // namespace
}  // namespace fastsr
