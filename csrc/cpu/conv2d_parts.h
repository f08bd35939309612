// SPDX-License-Identifier: Apache-2.0
// What the ways of conv2d share: the sizes of their loops, the packed weights, the end of a sum.
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

struct Packed {
  int64_t bias;     // offsets in floats from the start
  int64_t weights;  // few: [Co][Ci][k][k]; direct: [Co / kGroup][Ci][k][k][kGroup]; else see the Winograd files
};

int64_t header_floats() { return 16; }

// The first row or column of the block of `size` that y lies in, when blocks begin at multiples of it plus `phase`.
FASTSR_INLINE int64_t block_start(int64_t y, int64_t size, int64_t phase) {
  const int64_t from = y - phase;
  return (from >= 0 ? from / size : -((size - 1 - from) / size)) * size + phase;
}

template <int N, int V>
FASTSR_INLINE void add_residual(vf (&sum)[N][V], const float* residual, int64_t step, int64_t lines, int64_t n) {
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v)
      if (i < lines && v * kLanes < n) sum[i][v] = add(sum[i][v], load(residual + i * step + v * kLanes));
}

// Ends N lines (rows or channels, `step` floats apart in the output) of V vectors, of which `lines` lines and n pixels
// exist: residual, activation, store. Loop bounds are constants and branches stand outside, so that the sums stay in
// registers.
template <int N, int V>
FASTSR_INLINE void finish(const Args& a, vf (&sum)[N][V], float* to, int64_t step, const float* residual,
                          int64_t residual_step, int64_t lines, int64_t n) {
  if (residual && conv2d_of(*a.spec).sum_inside) add_residual(sum, residual, residual_step, lines, n);
  if (conv2d_of(*a.spec).activation == Activation::kRelu) {
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] = max(set1(0.0f), sum[i][v]);
  } else if (conv2d_of(*a.spec).activation == Activation::kLeakyRelu) {
    const vf slope = set1(conv2d_of(*a.spec).slope);
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] = leaky(sum[i][v], slope);
  }
  if (residual && !conv2d_of(*a.spec).sum_inside) add_residual(sum, residual, residual_step, lines, n);
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

FASTSR_INLINE const float* residual_at(const Args& a, int64_t c, int64_t y, int64_t x) {
  return a.spec->inputs == 2 ? at(a.in[1], c, y, x) : nullptr;
}

}  // namespace
}  // namespace fastsr
