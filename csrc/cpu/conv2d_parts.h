// SPDX-License-Identifier: Apache-2.0
// What the algorithms of conv2d share: the sizes of their loops, the packed weights, the end of a sum.
#pragma once

#include "core/kernel.h"
#include "cpu/activations.h"
#include "cpu/simd.h"
#include "ops/conv2d.h"

namespace fastsr {
namespace {

#if defined(FASTSR_AVX512)
constexpr int kGroup = 8, kWide = 3, kRows = 8;
#else
constexpr int kGroup = 4, kWide = 2, kRows = 4;
#endif

// Offsets in floats from the start of what is packed. Biases and slopes are 0 for outputs that only fill a group up.
struct Packed {
  int64_t bias;
  int64_t slopes;
  int64_t weights;  // few: [Co][Ci][k][k]; direct: [Co / kGroup][Ci][k][k][kGroup]; else see the Winograd files
};

int64_t header_floats() { return 16; }

// The first row or column of the block of `size` that y lies in, when blocks begin at multiples of it plus `phase`.
FASTSR_INLINE int64_t block_start(int64_t y, int64_t size, int64_t phase) {
  const int64_t from = y - phase;
  return (from >= 0 ? from / size : -((size - 1 - from) / size)) * size + phase;
}

// A row of what a step multiplies, of a channel or a pair of them: inputs that are joined follow each other.
struct Channel {
  const View* view;
  int64_t c;  // in it
};
FASTSR_INLINE Channel channel_of(const Args& a, int64_t c) {
  const View* in = a.in;
  for (; c >= in->channels; ++in) c -= in->channels;
  return {in, c};
}
FASTSR_INLINE const float* input_at(const Args& a, int64_t c, int64_t y, int64_t x) {
  const Channel from = channel_of(a, c);
  return at(*from.view, from.c, y, x);
}

FASTSR_INLINE const View* residual_of(const Args& a) {
  const int64_t residual = conv2d_of(*a.spec).residual;
  return residual ? a.in + residual : nullptr;
}
FASTSR_INLINE const float* residual_at(const Args& a, int64_t c, int64_t y, int64_t x) {
  const View* residual = residual_of(a);
  return residual ? at(*residual, c, y, x) : nullptr;
}
FASTSR_INLINE bool residual_in_pairs(const Spec& spec) {
  return conv2d_of(spec).residual && spec.pairs_in[conv2d_of(spec).residual];
}
FASTSR_INLINE int64_t residual_channel_stride(const Args& a) {
  const View* residual = residual_of(a);
  return residual ? residual->channel_stride : 0;
}

FASTSR_INLINE const float* slopes_of(const Args& a) {
  return static_cast<const float*>(a.packed) + static_cast<const Packed*>(a.packed)->slopes;
}

// Whether the end of a sum takes an exponential.
FASTSR_INLINE bool curved(const Conv2d& conv) { return conv.activation > Activation::kLeakyRelu; }

// Ends n sums of a row in place: out = f(sum, residual), a residual that is not there being 0. What lies behind the row is
// not even read: it may be another task's, which writes it at this moment.
template <typename F>
FASTSR_INLINE void end_row(float* row, const float* residual, int64_t n, F f) {
  int64_t x = 0;
  for (; x + kLanes <= n; x += kLanes) store(row + x, f(load(row + x), residual ? load(residual + x) : set1(0.0f)));
  if (x == n) return;
  const mask m = first(n - x);
  store_masked(row + x, f(load_masked(row + x, m), residual ? load_masked(residual + x, m) : set1(0.0f)), m);
}

// end_row as a curved step says. The code exists once: exponentials in line cost the ends of other steps up to 10 %.
__attribute__((noinline)) void curve(const Conv2d& conv, float* row, const float* residual, int64_t n) {
  const auto with = [&](auto act) {
    if (conv.sum_inside) return end_row(row, residual, n, [&](vf t, vf r) { return act(add(t, r)); });
    end_row(row, residual, n, [&](vf t, vf r) { return add(act(t), r); });
  };
  switch (conv.activation) {
    case Activation::kSilu:
      return with([](vf v) { return silu(v); });
    case Activation::kSigmoid:
      return with([](vf v) { return sigmoid(v); });
    case Activation::kTanh:
      return with([](vf v) { return tanh_of_half(add(v, v)); });
    default:
      end_row(row, residual, n, [](vf t, vf r) { return mul(add(t, r), mul(set1(0.5f), tanh_of_half(t))); });
  }
}

// Ends all sums of a rectangle while they are in cache.
void curve_all(const Args& a) {
  const Rect& r = a.out.rect;
  for (int64_t c = 0; c < a.spec->channels_out; ++c)
    for (int64_t y = r.y0; y < r.y1; ++y)
      curve(conv2d_of(*a.spec), at(a.out, c, y, r.x0), residual_at(a, c, y, r.x0), width(r));
}

template <int N, int V>
FASTSR_INLINE void add_residual(vf (&sum)[N][V], const float* residual, int64_t step, int64_t lines, int64_t n) {
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v)
      if (i < lines && v * kLanes < n) sum[i][v] = add(sum[i][v], load(residual + i * step + v * kLanes));
}

// Ends N lines of V vectors, of which `lines` lines and n pixels exist: residual, activation, store. Lines are `step` floats
// apart in the output: the channels from c on, or with kRowsOf rows of channel c. Loop bounds are constants and branches
// stand outside, so that the sums stay in registers.
enum Lines { kChannelsFrom, kRowsOf };
template <Lines L, int N, int V>
FASTSR_INLINE void finish(const Args& a, int64_t c, vf (&sum)[N][V], float* to, int64_t step, const float* residual,
                          int64_t residual_step, int64_t lines, int64_t n) {
  const Conv2d& conv = conv2d_of(*a.spec);
  if (residual && conv.sum_inside) add_residual(sum, residual, residual_step, lines, n);
  if (conv.activation == Activation::kRelu) {
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] = max(set1(0.0f), sum[i][v]);
  } else if (conv.activation == Activation::kLeakyRelu) {
    const float* slopes = slopes_of(a) + c;
    for (int i = 0; i < N; ++i) {
      const vf slope = set1(slopes[L == kChannelsFrom ? i : 0]);
      for (int v = 0; v < V; ++v) sum[i][v] = leaky(sum[i][v], slope);
    }
  }
  if (residual && !conv.sum_inside) add_residual(sum, residual, residual_step, lines, n);
  if (N == 1 && a.large && n >= V * kLanes && (reinterpret_cast<uintptr_t>(to) & (sizeof(vf) - 1)) == 0) {
    for (int v = 0; v < V; ++v) store_past(to + v * kLanes, sum[0][v]);
    return;
  }
  if (lines >= N && n >= V * kLanes) {
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < V; ++v) store(to + i * step + v * kLanes, sum[i][v]);
    return;
  }
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v)
      if (i < lines && v * kLanes < n) store_masked(to + i * step + v * kLanes, sum[i][v], first(n - v * kLanes));
}

}  // namespace
}  // namespace fastsr
