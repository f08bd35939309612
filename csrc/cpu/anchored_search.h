// SPDX-License-Identifier: Apache-2.0
// The anchor search of anchored_regression with 8-bit products: argmax_a |d_a . f| with the very bits of the plain
// search.
//
// Atoms and features are rounded to 8 bit, d = d' + e and f = f' + r, and all |d' . f'| are computed exactly in
// integers, four products an instruction (VNNI). With D = max |d'|, e = max |e_a|, and u the rounding of an fp32 score,
//     | |d_a . f| - |d'_a . f'| |  <=  D |r| + e |f| + u |f|  =: E,
// so an atom whose coarse score lies more than 2 E below the largest coarse score cannot be the anchor. Only the groups
// of 16 atoms that hold a nearer one are scored in fp32, by the plain search's products in the plain search's order.
#pragma once

#include <immintrin.h>

#include "core/kernel.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

constexpr int kVectors = 3;  // of 16 patches
constexpr int kPatches = kVectors * 16;
constexpr int kRound = 8;        // atoms whose sums are in registers at once
constexpr float kSlack = 1e-5f;  // u with room: an fp32 score of n <= 128 products errs by < n 2^-24 |d| |f|

struct CoarseHead {
  float step;     // an atom's 8-bit unit
  float largest;  // D
  float error;    // e
  float norm;     // max |d_a|
};

// Offsets in floats; atoms come in groups of 16, features in fours.
struct CoarseSizes {
  int64_t n, fours, groups, head, bytes, sums, exact, total;

  CoarseSizes(int64_t features, int64_t atoms) {
    n = features;
    fours = (features + 3) / 4;
    groups = (atoms + 15) / 16;
    head = 0;
    bytes = 16;
    sums = bytes + groups * 16 * fours;
    exact = round_up(sums + groups * 16, 16);
    total = exact + groups * 16 * n;
  }
};

void pack_coarse(const CoarseSizes& z, const float* atoms, int64_t count, float* to) {
  CoarseHead* head = reinterpret_cast<CoarseHead*>(to + z.head);
  int8_t* bytes = reinterpret_cast<int8_t*>(to + z.bytes);
  int32_t* sums = reinterpret_cast<int32_t*>(to + z.sums);
  double largest = 0;
  for (int64_t i = 0; i < count * z.n; ++i) largest = __builtin_fmax(largest, __builtin_fabs(atoms[i]));
  const double step = largest > 0 ? static_cast<double>(static_cast<float>(largest / 127)) : 1.0;
  double top_rounded = 0, top_error = 0, top_norm = 0;
  for (int64_t a = 0; a < z.groups * 16; ++a) {
    double rounded = 0, error = 0, norm = 0;
    int32_t sum = 0;
    for (int64_t k = 0; k < z.fours * 4; ++k) {
      const double d = a < count && k < z.n ? static_cast<double>(atoms[a * z.n + k]) : 0.0;
      const int q = static_cast<int>(d / step + (d >= 0 ? 0.5 : -0.5));
      const int clipped = q > 127 ? 127 : q < -127 ? -127 : q;
      // [group][round][four][atom of round][4]
      bytes[((a / kRound * z.fours + k / 4) * kRound + a % kRound) * 4 + k % 4] = static_cast<int8_t>(clipped);
      sum += clipped;
      rounded += clipped * step * clipped * step;
      error += (d - clipped * step) * (d - clipped * step);
      norm += d * d;
      if (k < z.n) to[z.exact + (a / 16 * z.n + k) * 16 + a % 16] = static_cast<float>(d);
    }
    sums[a] = -128 * sum;
    top_rounded = __builtin_fmax(top_rounded, rounded);
    top_error = __builtin_fmax(top_error, error);
    top_norm = __builtin_fmax(top_norm, norm);
  }
  head->step = static_cast<float>(step);
  head->largest = static_cast<float>(__builtin_sqrt(top_rounded));
  head->error = static_cast<float>(__builtin_sqrt(top_error));
  head->norm = static_cast<float>(__builtin_sqrt(top_norm));
}

// Room for one block of patches, in floats: quantised features, the largest coarse score of every group, and the list
// of (group, patch) to score exactly.
int64_t coarse_scratch(const CoarseSizes& z) { return (z.fours + 2 * z.groups) * kPatches + 16; }

// Rounds the features [n][48] of a vector of patches to bytes [four][48][4], offset by 128 because VNNI multiplies
// unsigned by signed, and gives the distance below the largest coarse score (in integer units) at which an atom still
// may be the anchor. Zeros (a flat patch) are anchored to atom 0 without looking: the distance is negative.
FASTSR_INLINE __m512 quantise(const CoarseSizes& z, const CoarseHead& head, const float* block, int32_t* bytes) {
  __m512 largest = _mm512_setzero_ps(), square = _mm512_setzero_ps();
  for (int64_t k = 0; k < z.n; ++k) {
    const __m512 f = _mm512_loadu_ps(block + k * kPatches);
    largest = _mm512_max_ps(largest, _mm512_abs_ps(f));
    square = _mm512_fmadd_ps(f, f, square);
  }
  const __mmask16 usable = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(kFlat), _CMP_GE_OQ);
  const __m512 inverse = _mm512_maskz_div_ps(usable, _mm512_set1_ps(127.0f), largest);
  const __m512 step = _mm512_mul_ps(largest, _mm512_set1_ps(1.0f / 127.0f));
  __m512 residual = _mm512_setzero_ps();
  for (int64_t four = 0; four < z.fours; ++four) {
    __m512i word = _mm512_setzero_si512();
    for (int64_t i = 3; i >= 0; --i) {
      __m512i q = _mm512_setzero_si512();
      if (four * 4 + i < z.n) {
        const __m512 f = _mm512_loadu_ps(block + (four * 4 + i) * kPatches);
        q = _mm512_cvtps_epi32(_mm512_mul_ps(f, inverse));
        // 127 / largest may round up: keep q in range, the residual knows the truth.
        q = _mm512_min_epi32(_mm512_max_epi32(q, _mm512_set1_epi32(-127)), _mm512_set1_epi32(127));
        const __m512 r = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(q), step, f);
        residual = _mm512_fmadd_ps(r, r, residual);
      }
      word = _mm512_or_si512(_mm512_slli_epi32(word, 8), _mm512_add_epi32(q, _mm512_set1_epi32(128)));
    }
    _mm512_storeu_si512(bytes + four * kPatches, word);
  }
  const __m512 norm = _mm512_sqrt_ps(square);
  __m512 error = _mm512_mul_ps(_mm512_set1_ps(head.largest), _mm512_sqrt_ps(residual));
  error = _mm512_fmadd_ps(_mm512_set1_ps(head.error + kSlack * head.norm), norm, error);
  const __m512 unit = _mm512_mul_ps(step, _mm512_set1_ps(head.step));
  // 2 E in units, a thousandth more for the rounding of this very line, and one unit for that of the comparison.
  const __m512 reach = _mm512_fmadd_ps(_mm512_set1_ps(2.002f), _mm512_div_ps(error, unit), _mm512_set1_ps(1.0f));
  return _mm512_mask_blend_ps(usable, _mm512_set1_ps(-1e9f), reach);
}

// sum += four products of unsigned and signed bytes. Not the intrinsic: for 24 sums GCC 12 copies and spills around it.
FASTSR_INLINE void dot4(__m512i& sum, __m512i u, __m512i s) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s)); }

// Coarse scores of all atoms for a block of patches: the largest of every group of 16, and of all.
__attribute__((noinline)) void coarse_scores(const CoarseSizes& z, const float* packed, const int32_t* features,
                                             int32_t* groups, __m512i* best) {
  const int32_t* words = reinterpret_cast<const int32_t*>(packed + z.bytes);
  const int32_t* sums = reinterpret_cast<const int32_t*>(packed + z.sums);
  for (int64_t g = 0; g < z.groups; ++g) {
    for (int half = 0; half < 2; ++half, sums += kRound) {
      __m512i sum[kRound][kVectors];
      for (int i = 0; i < kRound; ++i)
        for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_set1_epi32(sums[i]);
      const int32_t* f = features;
      for (int64_t four = 0; four < z.fours; ++four, words += kRound, f += kPatches) {
        __m512i p[kVectors];
        for (int v = 0; v < kVectors; ++v) p[v] = _mm512_loadu_si512(f + v * 16);
        for (int i = 0; i < kRound; ++i) {
          const __m512i w = _mm512_set1_epi32(words[i]);
          for (int v = 0; v < kVectors; ++v) dot4(sum[i][v], p[v], w);
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        __m512i top = _mm512_abs_epi32(sum[0][v]);
        for (int i = 1; i < kRound; ++i) top = _mm512_max_epi32(top, _mm512_abs_epi32(sum[i][v]));
        int32_t* at = groups + g * kPatches + v * 16;
        if (half) top = _mm512_max_epi32(top, _mm512_loadu_si512(at));
        _mm512_storeu_si512(at, top);
        best[v] = _mm512_max_epi32(best[v], top);
      }
    }
  }
}

// Scores N pairs of a group of 16 atoms and a patch (group << 8 | patch) in fp32; lanes are atoms.
template <int N>
FASTSR_INLINE void score_exactly(const CoarseSizes& z, const float* exact, const float* block, const int32_t* pairs,
                                 float* best, int32_t* anchor) {
  __m512 sum[N];
  const float* w[N];
  const float* f[N];
  for (int i = 0; i < N; ++i) {
    sum[i] = _mm512_setzero_ps();
    w[i] = exact + (pairs[i] >> 8) * z.n * 16;
    f[i] = block + (pairs[i] & 255);
  }
  for (int64_t k = 0; k < z.n; ++k)
    for (int i = 0; i < N; ++i)
      sum[i] = _mm512_fmadd_ps(_mm512_set1_ps(f[i][k * kPatches]), _mm512_loadu_ps(w[i] + k * 16), sum[i]);
  for (int i = 0; i < N; ++i) {
    const int32_t patch = pairs[i] & 255;
    const __m512 score = _mm512_abs_ps(sum[i]);
    const float top = _mm512_reduce_max_ps(score);
    if (top > best[patch]) {  // groups come in rising order: the first of equals stays
      best[patch] = top;
      const unsigned tops = _mm512_cmp_ps_mask(score, _mm512_set1_ps(top), _CMP_EQ_OQ);
      anchor[patch] = (pairs[i] >> 8) * 16 + __builtin_ctz(tops);
    }
  }
}

// The anchors of 48 patches whose features are block [n][48]; bit i of real[v] says that lane i of vector v is a patch.
void search_anchors(const CoarseSizes& z, const float* packed, const float* block, const uint16_t* real, float* scratch,
                    int32_t* anchor) {
  const CoarseHead& head = *reinterpret_cast<const CoarseHead*>(packed + z.head);
  int32_t* bytes = reinterpret_cast<int32_t*>(scratch);
  int32_t* groups = bytes + z.fours * kPatches;
  __m512 reach[kVectors];
  __m512i top[kVectors];
  float best[kPatches];
  for (int v = 0; v < kVectors; ++v) {
    reach[v] = quantise(z, head, block + v * 16, bytes + v * 16);
    top[v] = _mm512_setzero_si512();
    _mm512_storeu_ps(best + v * 16, _mm512_set1_ps(-1.0f));
    _mm512_storeu_si512(anchor + v * 16, _mm512_setzero_si512());
  }
  coarse_scores(z, packed, bytes, groups, top);
  __m512i least[kVectors];
  for (int v = 0; v < kVectors; ++v)
    least[v] = _mm512_cvt_roundps_epi32(_mm512_sub_ps(_mm512_cvtepi32_ps(top[v]), reach[v]),
                                        _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  // Without branches: where the near groups are is anyone's guess.
  int32_t* pairs = groups + z.groups * kPatches;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
  for (int64_t g = 0; g < z.groups; ++g) {
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 near =
          _mm512_mask_cmpge_epi32_mask(real[v], _mm512_loadu_si512(groups + g * kPatches + v * 16), least[v]);
      const __m512i pair = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(g << 8 | v * 16)));
      _mm512_storeu_si512(pairs + count, _mm512_maskz_compress_epi32(near, pair));
      count += __builtin_popcount(near);
    }
  }
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) score_exactly<4>(z, packed + z.exact, block, pairs + i, best, anchor);
  for (; i < count; ++i) score_exactly<1>(z, packed + z.exact, block, pairs + i, best, anchor);
}

}  // namespace
}  // namespace fastsr
