// SPDX-License-Identifier: Apache-2.0
// Matrix products of conv2d in bfloat16, summed in fp32: [outputs x inputs] [inputs x columns], columns being lanes. Two
// inputs share a 32-bit lane, as AVX-512-BF16 and AMX want them, so nothing is transposed: what is a row of floats for
// each of two channels in fp32 is one row of pairs here, and the products are rows of floats as ever.
#pragma once

#include "core/kernel.h"
#include "cpu/bf16.h"
#include "cpu/conv2d_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

// Inputs are padded with zeros to this many, outputs to kOutputs.
constexpr int64_t kInputs = 32, kOutputs = 32;

// Rows of pairs of a matrix of `channels` inputs.
FASTSR_INLINE int64_t pair_rows(int64_t channels) { return round_up(channels, kInputs) / 2; }

// Floats that a packed matrix takes.
FASTSR_INLINE int64_t matrix_floats(int64_t outputs, int64_t inputs) {
  return round_up(outputs, kOutputs) * pair_rows(inputs);
}

// 1 x 1: a row of the input becomes panels of pairs [panel][pair rows][32], and 32 outputs x 32 pixels of products are
// ended at a time.
constexpr int64_t kPixels = 32;

FASTSR_INLINE int64_t points_bf16_floats(const Spec& spec, const Rect& out) {
  return pair_rows(spec.channels_in) * round_up(width(out), kPixels) + kOutputs * kPixels;
}

#if defined(FASTSR_ISA_AVX512BF16) || defined(FASTSR_ISA_AMX)
#define FASTSR_BF16

// Lane i: the nearest bfloat16 of even[i] in the low half, of odd[i] in the high half.
FASTSR_INLINE vf to_pairs(vf even, vf odd) {
  const __m512i order =
      _mm512_setr_epi32(0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005, 0x00160006, 0x00170007,
                        0x00180008, 0x00190009, 0x001a000a, 0x001b000b, 0x001c000c, 0x001d000d, 0x001e000e, 0x001f000f);
  return _mm512_castsi512_ps(
      _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even))));
}

#if defined(FASTSR_ISA_AMX)

// Where the weight of output o and input k is, in uint16: [outputs / 16][inputs / 32][16 outputs][32 inputs].
FASTSR_INLINE int64_t weight_at(int64_t inputs, int64_t o, int64_t k) {
  return ((o / 16 * (pair_rows(inputs) / 16) + k / 32) * 16 + o % 16) * 32 + k % 32;
}

using Unit = TileUnit;

// 32 outputs from `o` on, 32 columns: x [pair rows][line], to [32][step]. With `half`, 16 columns. Meanwhile `lines` cache
// lines from `ahead` on are fetched into L2, for each 32 inputs.
FASTSR_INLINE void bf16_products(const float* matrix, int64_t inputs, int64_t o, const float* x, int64_t line,
                                 bool half, float* to, int64_t step, const float* ahead, int64_t lines) {
  const int64_t steps = pair_rows(inputs) / 16;
  const float* w = matrix + o / 16 * steps * kTile;
  const float* next = w + steps * kTile;
  const int64_t stride = line * 4, out = step * 4;
  _tile_zero(0);
  _tile_zero(2);
  if (half) {
    for (int64_t k = 0; k < steps; ++k, w += kTile, next += kTile, x += 16 * line) {
      for (int64_t i = 0; i < lines; ++i, ahead += 16) __builtin_prefetch(ahead, 0, 2);
      _tile_loadd(6, x, stride);
      _tile_loadd(4, w, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, next, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
  } else {
    _tile_zero(1);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; ++k, w += kTile, next += kTile, x += 16 * line) {
      for (int64_t i = 0; i < lines; ++i, ahead += 16) __builtin_prefetch(ahead, 0, 2);
      _tile_loadd(4, w, 64);
      _tile_loadd(6, x, stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, x + 16, stride);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, next, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(1, to + 16, out);
    _tile_stored(3, to + 16 * step + 16, out);
  }
  _tile_stored(0, to, out);
  _tile_stored(2, to + 16 * step, out);
}

#else

struct Unit {};

// [outputs / 8][pairs][8 outputs][2]
FASTSR_INLINE int64_t weight_at(int64_t inputs, int64_t o, int64_t k) {
  return ((o / 8 * pair_rows(inputs) + k / 2) * 8 + o % 8) * 2 + k % 2;
}

FASTSR_INLINE void bf16_products(const float* matrix, int64_t inputs, int64_t o, const float* x, int64_t line,
                                 bool half, float* to, int64_t step, const float* ahead, int64_t lines) {
  const int64_t rows = pair_rows(inputs);
  (void)ahead, (void)lines;  // weights come in order: one row ahead will do
  for (int64_t g = 0; g < kOutputs; g += 8, to += 8 * step) {
    const float* w = matrix + (o + g) * rows;
    const float* from = x;
    __m512 sum[8][2];
    FASTSR_UNROLL
    for (int i = 0; i < 8; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < rows; ++k, w += 8, from += line) {
      __builtin_prefetch(w + 512, 0, 2);
      const __m512bh a = reinterpret_cast<__m512bh>(_mm512_loadu_ps(from));
      const __m512bh b = reinterpret_cast<__m512bh>(_mm512_loadu_ps(from + 16));
      FASTSR_UNROLL
      for (int i = 0; i < 8; ++i) {
        const __m512bh weight = reinterpret_cast<__m512bh>(_mm512_set1_ps(w[i]));
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], weight, a);
        sum[i][1] = _mm512_dpbf16_ps(sum[i][1], weight, b);
      }
    }
    FASTSR_UNROLL
    for (int i = 0; i < 8; ++i) {
      _mm512_storeu_ps(to + i * step, sum[i][0]);
      if (!half) _mm512_storeu_ps(to + i * step + 16, sum[i][1]);
    }
  }
}

#endif

// Packs w [outputs][inputs], given with its strides in floats, into zeros.
void pack_matrix(const float* w, int64_t outputs, int64_t inputs, float* to) {
  uint16_t* halves = reinterpret_cast<uint16_t*>(to);
  __builtin_memset(to, 0, static_cast<size_t>(matrix_floats(outputs, inputs)) * sizeof(float));
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t k = 0; k < inputs; ++k) halves[weight_at(inputs, o, k)] = to_bfloat16(w[o * inputs + k]);
}

template <typename Act>
void points_bf16(const Args& a, Act act) {
  const Unit unit;
  (void)unit;
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const int64_t ci = a.spec->channels_in, co = a.spec->channels_out, rows = pair_rows(ci);
  const Rect& r = a.out.rect;
  float* const products = static_cast<float*>(a.scratch);
  float* const panels = products + kOutputs * kPixels;
  for (int64_t y = r.y0; y < r.y1; ++y) {
    for (int64_t k = 0; k < rows; ++k) {
      const bool even = 2 * k < ci, odd = 2 * k + 1 < ci;
      const float* from = at(a.in[0], min(2 * k, ci - 1), y, r.x0);
      const float* next = odd ? from + a.in[0].channel_stride : from;
      for (int64_t x = 0; x < width(r); x += kLanes) {
        const vf zero = set1(0.0f);
        store(panels + (x / kPixels * rows + k) * kPixels + x % kPixels,
              to_pairs(even ? act(load(from + x)) : zero, odd ? act(load(next + x)) : zero));
      }
    }
    for (int64_t x = r.x0; x < r.x1; x += kPixels) {
      const float* panel = panels + (x - r.x0) * rows;
      const int64_t n = r.x1 - x, share = (ci * kOutputs + co - 1) / co;
      for (int64_t c = 0, ahead = 0; c < co; c += kOutputs) {
        for (const int64_t end = min(ci, ahead + share); ahead < end; ++ahead)
          for (int v = 0; v < 2; ++v) __builtin_prefetch(at(a.in[0], ahead, y + 1, x + v * kLanes), 0, 2);
        bf16_products(base + head->weights, ci, c, panel, kPixels, n <= kLanes, products, kPixels, nullptr, 0);
        for (int64_t o = 0; o < min(kOutputs, co - c); ++o) {
          const vf bias = set1(base[head->bias + c + o]);
          vf sum[1][2] = {{add(load(products + o * kPixels), bias), add(load(products + o * kPixels + kLanes), bias)}};
          finish(a, sum, at(a.out, c + o, y, x), 0, residual_at(a, c + o, y, x), 0, 1, n);
        }
      }
    }
  }
}

#endif

}  // namespace
}  // namespace fastsr
