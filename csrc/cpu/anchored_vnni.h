// SPDX-License-Identifier: Apache-2.0
// Coarse scores of anchored_search.h with VNNI: atoms and features as bytes with a step per patch, products exact in
// integers, four an instruction.
#pragma once

#include <immintrin.h>

#include "core/kernel.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

constexpr int kRound = 8;  // atoms whose sums are in registers at once

// Offsets in floats; atoms come in groups of 16, features in fours.
struct CoarseSizes {
  int64_t n, fours, groups, bytes, sums, exact, total, rounded;

  CoarseSizes(int64_t features, int64_t atoms) {
    n = features;
    fours = (features + 3) / 4;
    groups = (atoms + 15) / 16;
    bytes = 16;  // after the head
    sums = bytes + groups * 16 * fours;
    exact = round_up(sums + groups * 16, 16);
    total = exact + groups * 16 * n;
    rounded = fours * kPatches;
  }
};

// Nothing to set up.
struct CoarseUnit {};

// Packs the atoms [count][n], rounded.
CoarseHead pack_coarse(const CoarseSizes& z, const float* atoms, int64_t count, float* to) {
  int8_t* bytes = reinterpret_cast<int8_t*>(to + z.bytes);
  int32_t* sums = reinterpret_cast<int32_t*>(to + z.sums);
  double largest = 0;
  for (int64_t i = 0; i < count * z.n; ++i) largest = __builtin_fmax(largest, __builtin_fabs(atoms[i]));
  const double step = largest > 0 ? static_cast<double>(static_cast<float>(largest / 127)) : 1.0;
  Worst worst;
  for (int64_t a = 0; a < z.groups * 16; ++a) {
    int32_t sum = 0;
    for (int64_t k = 0; k < z.fours * 4; ++k) {
      const double d = a < count && k < z.n ? static_cast<double>(atoms[a * z.n + k]) : 0.0;
      const int q = static_cast<int>(d / step + (d >= 0 ? 0.5 : -0.5));
      const int clipped = q > 127 ? 127 : q < -127 ? -127 : q;
      // [group][round][four][atom of round][4]
      bytes[((a / kRound * z.fours + k / 4) * kRound + a % kRound) * 4 + k % 4] = static_cast<int8_t>(clipped);
      sum += clipped;
      worst.add(d, clipped * step);
    }
    sums[a] = -128 * sum;
    worst.next();
  }
  return worst.head(step);
}

// Rounds the features [n][48] of a vector of patches to bytes [four][48][4], offset by 128 because VNNI multiplies
// unsigned by signed, and gives the distance below the largest coarse score (in integer units) at which an atom still
// may be the anchor. Zeros (a flat patch) are anchored to atom 0 without looking: the distance is negative.
FASTSR_INLINE __m512 round_features(const CoarseSizes& z, const CoarseHead& head, const float* block, int v,
                                    float* to) {
  int32_t* bytes = reinterpret_cast<int32_t*>(to) + v * 16;
  block += v * 16;
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
  error = _mm512_fmadd_ps(_mm512_set1_ps(head.error + slack(z.n) * head.norm), norm, error);
  const __m512 unit = _mm512_mul_ps(step, _mm512_set1_ps(head.step));
  // 2 E in units, a thousandth more for the rounding of this very line, and one unit for that of the comparison.
  const __m512 reach = _mm512_fmadd_ps(_mm512_set1_ps(2.002f), _mm512_div_ps(error, unit), _mm512_set1_ps(1.0f));
  return _mm512_mask_blend_ps(usable, _mm512_set1_ps(-1e9f), reach);
}

// sum += four products of unsigned and signed bytes. Not the intrinsic: for 24 sums GCC 12 copies and spills around it.
FASTSR_INLINE void dot4(__m512i& sum, __m512i u, __m512i s) { asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s)); }

// Coarse scores of all atoms for a block of patches: the largest of every group of 16, and of all.
__attribute__((noinline)) void coarse_scores(const CoarseSizes& z, const float* packed, float* rounded, float* groups,
                                             __m512* best) {
  const int32_t* features = reinterpret_cast<const int32_t*>(rounded);
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
        float* at = groups + g * kPatches + v * 16;
        __m512 score = _mm512_cvtepi32_ps(top);  // exact: below 2^24
        if (half) score = _mm512_max_ps(score, _mm512_loadu_ps(at));
        _mm512_storeu_ps(at, score);
        best[v] = _mm512_max_ps(best[v], score);
      }
    }
  }
}

}  // namespace
}  // namespace fastsr
