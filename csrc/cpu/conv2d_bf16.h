// SPDX-License-Identifier: Apache-2.0
// conv2d by products of bfloat16 (cpu/bf16.h): `points_bf16` for 1 x 1, `taps_bf16` for k x k. The transformed algorithms have
// theirs in conv2d_tiles.h.
#pragma once

#include "core/kernel.h"
#include "cpu/bf16.h"
#include "cpu/conv2d_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

constexpr int64_t kProducts = 2 * kOutputs * kPixels;  // of this block and of the one before, which is being ended

// 1 x 1: a row of the input becomes panels of pairs [panel][pair rows][32].
FASTSR_INLINE int64_t points_bf16_floats(const Spec& spec, const Rect& out) {
  return kProducts + pair_rows(spec.channels_in) * round_up(width(out), kPixels);
}

// k x k: rows of pairs, of an odd number of cache lines so that they spread over the sets.
FASTSR_INLINE int64_t taps_line(const Spec& spec, const Rect& out) {
  return round_up(round_up(width(out), kPixels) + conv2d_of(spec).kernel, 16) | 16;
}

// At the image's left edge, where rows begin with up to `radius` zeros, make_pairs' last vector may end so many zeros past
// the line: on the zeros that the next begins with, and for the last one on a line of room.
FASTSR_INLINE int64_t taps_bf16_floats(const Spec& spec, const Rect& out) {
  const int64_t rows = height(out) + conv2d_of(spec).kernel - 1;
  return kProducts + rows * pair_rows(spec.channels_in) * taps_line(spec, out) + 16;
}

#if defined(FASTSR_BF16)

// Packs w [outputs][inputs][taps] into zeros.
void pack_matrix(const float* w, int64_t outputs, int64_t inputs, int64_t taps, float* to) {
  const int64_t each = round_up(inputs, kInputs);
  __builtin_memset(to, 0, static_cast<size_t>(matrix_floats(outputs, taps * each)) * sizeof(float));
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t k = 0; k < inputs; ++k)
      for (int64_t t = 0; t < taps; ++t) set_weight(to, taps * each, o, t * each + k, w[(o * inputs + k) * taps + t]);
}

// Ends two outputs of n pixels, of which `both` says whether there is a second: residual, activation, store. A value of
// pairs keeps the two in one lane.
FASTSR_INLINE vf residual_of_two(const Args& a, int i, bool both, const float* p) {
  if (residual_in_pairs(*a.spec)) return i ? odd_of(load(p)) : even_of(load(p));
  return i && !both ? set1(0.0f) : load(p + i * residual_channel_stride(a));
}

FASTSR_INLINE void add_residuals(const Args& a, vf (&sum)[2][2], bool both, const float* residual) {
  for (int i = 0; i < 2; ++i)
    for (int v = 0; v < 2; ++v) sum[i][v] = add(sum[i][v], residual_of_two(a, i, both, residual + v * kLanes));
}

FASTSR_INLINE void end_two(const Args& a, int64_t c, vf (&sum)[2][2], bool both, float* to, const float* residual,
                           int64_t n) {
  const Spec& spec = *a.spec;
  const Conv2d& conv = conv2d_of(spec);
  if (curved(conv)) {
    alignas(64) float sums[4 * kLanes], added[4 * kLanes];
    for (int i = 0; i < 2; ++i)
      for (int v = 0; v < 2; ++v) {
        store(sums + (2 * i + v) * kLanes, sum[i][v]);
        store(added + (2 * i + v) * kLanes, residual ? residual_of_two(a, i, both, residual + v * kLanes) : set1(0.0f));
      }
    curve(conv, sums, added, 4 * kLanes);
    for (int i = 0; i < 2; ++i)
      for (int v = 0; v < 2; ++v) sum[i][v] = load(sums + (2 * i + v) * kLanes);
  } else {
    if (residual && conv.sum_inside) add_residuals(a, sum, both, residual);
    if (conv.activation != Activation::kNone) {
      const float* slopes = slopes_of(a) + c;
      for (int i = 0; i < 2; ++i) {
        const vf slope = set1(conv.activation == Activation::kRelu ? 0.0f : slopes[i]);
        for (int v = 0; v < 2; ++v) sum[i][v] = leaky(sum[i][v], slope);
      }
    }
    if (residual && !conv.sum_inside) add_residuals(a, sum, both, residual);
  }
  if (spec.pairs_out) {
    write(a, to, to_pairs(sum[0][0], sum[1][0]), to_pairs(sum[0][1], sum[1][1]), n);
  } else {
    write(a, to, sum[0][0], sum[0][1], n);
    if (both) write(a, to + a.out.channel_stride, sum[1][0], sum[1][1], n);
  }
}

// Where outputs c and c + 1 go, and what is added to them.
FASTSR_INLINE float* out_at(const Args& a, int64_t c, int64_t y, int64_t x) {
  return at(a.out, a.spec->pairs_out ? c / 2 : c, y, x);
}

FASTSR_INLINE const float* residuals_at(const Args& a, int64_t c, int64_t y, int64_t x) {
  return residual_at(a, residual_in_pairs(*a.spec) ? c / 2 : c, y, x);
}

// 32 outputs from c on, of 32 pixels of row y from x on, that wait to be ended while others are multiplied.
struct Ending {
  const Args& a;
  const float* bias;
  int64_t share;  // outputs ended at a time, even
  const float* products = nullptr;
  int64_t c = 0, end = 0, y = 0, x = 0;

  Ending(const Args& args, const float* biases, int64_t steps)
      : a(args), bias(biases), share(round_up((kOutputs + steps - 1) / steps, 2)) {}

  __attribute__((always_inline)) void begin(const float* from, int64_t group, int64_t row, int64_t column) {
    products = from;
    c = group;
    end = min(group + kOutputs, a.spec->channels_out);
    y = row;
    x = column;
  }
  __attribute__((always_inline)) void end_until(int64_t stop) {
    for (; c < stop; c += 2, products += 2 * kPixels) {
      vf sum[2][2];
      for (int i = 0; i < 2; ++i)
        for (int v = 0; v < 2; ++v) sum[i][v] = add(load(products + i * kPixels + v * kLanes), set1(bias[c + i]));
      end_two(a, c, sum, c + 1 < end, out_at(a, c, y, x), residuals_at(a, c, y, x), a.out.rect.x1 - x);
    }
  }
  __attribute__((always_inline)) void operator()() { end_until(min(end, c + share)); }
  __attribute__((always_inline)) void rest() { end_until(end); }
};

template <typename Act>
void points_bf16(const Args& a, Act act) {
  const TileUnit unit;
  (void)unit;
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const int64_t ci = a.spec->channels_in, co = a.spec->channels_out, rows = pair_rows(ci);
  const Rect& r = a.out.rect;
  float* const products = static_cast<float*>(a.scratch);
  float* const panels = products + kProducts;
  Ending ending(a, base + head->bias, rows / 16);
  int64_t rows_in = 0;
  for (int64_t i = 0; i < a.spec->joined; ++i) rows_in += a.in[i].channels;
  int64_t turn = 0;
  for (int64_t y = r.y0; y < r.y1; ++y) {
    for (int64_t x = r.x0; x < r.x1; x += kPixels)
      make_pairs(a, act, y, x, min(r.x1, x + kPixels), panels + (x - r.x0) * rows, kPixels);
    for (int64_t x = r.x0; x < r.x1; x += kPixels) {
      const float* panel = panels + (x - r.x0) * rows;
      const int64_t n = r.x1 - x, share = (rows_in * kOutputs + co - 1) / co;
      for (int64_t c = 0, ahead = 0; c < co; c += kOutputs) {
        for (const int64_t end = min(rows_in, ahead + share); ahead < end; ++ahead) {
          const float* next = input_at(a, ahead, y + 1, x);
          for (int v = 0; v < 2; ++v) __builtin_prefetch(next + v * kLanes, 0, 2);
        }
        float* to = products + (turn ^= kOutputs * kPixels);
        bf16_products(base + head->weights, ci, c, {panel, kPixels}, n <= kLanes, to, kPixels, ending);
        ending.rest();
        ending.begin(to, c, y, x);
      }
    }
  }
  ending.rest();
}

// k x k with zero borders, by k x k products that add up in the tiles: the input's rows become rows of pairs once, and a
// tap's columns are the same rows a pixel further.
template <typename Act>
void taps_bf16(const Args& a, Act act) {
  const TileUnit unit;
  (void)unit;
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const int64_t ci = a.spec->channels_in, co = a.spec->channels_out, pairs = pair_rows(ci);
  const int64_t side = conv2d_of(*a.spec).kernel, radius = side / 2;
  const Rect& r = a.out.rect;
  // Where an input is not, because it was clipped to the image, its border is zero, and so is that of the others.
  Rect in = a.in[0].rect;
  for (int64_t i = 1; i < a.spec->joined; ++i) {
    const Rect& other = a.in[i].rect;
    in = {max(in.y0, other.y0), max(in.x0, other.x0), min(in.y1, other.y1), min(in.x1, other.x1)};
  }
  const int64_t line = taps_line(*a.spec, r), row = pairs * line;
  float* const products = static_cast<float*>(a.scratch);
  float* const rows = products + kProducts;
  const int64_t from = max(in.x0, r.x0 - radius), to = min(in.x1, r.x1 + radius);
  for (int64_t y = r.y0 - radius; y < r.y1 + radius; ++y) {
    float* pairs_of_row = rows + (y - r.y0 + radius) * row;
    const bool inside = y >= in.y0 && y < in.y1;
    if (!inside || from > r.x0 - radius || to < r.x1 + radius)
      __builtin_memset(pairs_of_row, 0, static_cast<size_t>(row) * sizeof(float));
    if (inside) make_pairs(a, act, y, from, to, pairs_of_row + from - (r.x0 - radius), line);
  }
  Ending ending(a, base + head->bias, side * side * pairs / 16);
  int64_t turn = 0;
  for (int64_t x = r.x0; x < r.x1; x += kPixels)
    for (int64_t c = 0; c < co; c += kOutputs)
      for (int64_t y = r.y0; y < r.y1; ++y) {
        float* made = products + (turn ^= kOutputs * kPixels);
        const Columns32 columns{rows + (y - r.y0) * row + x - r.x0, line, side, row};
        bf16_products(base + head->weights, ci, c, columns, r.x1 - x <= kLanes, made, kPixels, ending);
        ending.rest();
        ending.begin(made, c, y, x);
      }
  ending.rest();
}

#endif

}  // namespace
}  // namespace fastsr
