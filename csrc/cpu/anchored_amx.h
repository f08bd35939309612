// SPDX-License-Identifier: Apache-2.0
// Coarse scores of anchored_search.h with AMX: atoms and features as bfloat16, 16 x 16 scores of 32 products an
// instruction, summed in fp32. Rounding is 2^-9 relative, a fifth of the bytes' bound.
#pragma once

#include <immintrin.h>

#include "core/kernel.h"
#include "cpu/bf16.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

// Offsets in floats; a tile holds 16 atoms x 32 features.
struct CoarseSizes {
  int64_t n, steps, groups, tiles, exact, total, rounded;

  CoarseSizes(int64_t features, int64_t atoms) {
    n = features;
    steps = (features + 31) / 32;
    groups = (atoms + 15) / 16;
    tiles = 16;  // after the head
    exact = tiles + groups * steps * kTile;
    total = exact + groups * 16 * n;
    rounded = steps * kVectors * kTile + 2 * kVectors * kTile;  // and two sets of scores
  }
};

using CoarseUnit = TileUnit;

float from_bfloat(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

// Packs the atoms [count][n], rounded: [group][step][16 atoms][32 features].
CoarseHead pack_coarse(const CoarseSizes& z, const float* atoms, int64_t count, float* to) {
  uint16_t* tiles = reinterpret_cast<uint16_t*>(to + z.tiles);
  Worst worst;
  for (int64_t a = 0; a < z.groups * 16; ++a) {
    for (int64_t k = 0; k < z.steps * 32; ++k) {
      const float d = a < count && k < z.n ? atoms[a * z.n + k] : 0.0f;
      const uint16_t half = to_bfloat16(d);
      tiles[((a / 16 * z.steps + k / 32) * 16 + a % 16) * 32 + k % 32] = half;
      worst.add(static_cast<double>(d), static_cast<double>(from_bfloat(half)));
    }
    worst.next();
  }
  return worst.head(1.0);
}

// Rounds the features [n][48] of vector v to tiles [step][v][16 pairs of features][16 patches][2], and gives the
// distance below the largest coarse score at which an atom still may be the anchor. Zeros (a flat patch) are anchored
// to atom 0 without looking: the distance is negative.
FASTSR_INLINE __m512 round_features(const CoarseSizes& z, const CoarseHead& head, const float* block, int v,
                                    float* to) {
  block += v * 16;
  __m512 largest = _mm512_setzero_ps(), square = _mm512_setzero_ps(), residual = _mm512_setzero_ps();
  for (int64_t k = 0; k < z.steps * 32; k += 2) {
    __m512i half[2];
    for (int i = 0; i < 2; ++i) {
      const __m512 f = k + i < z.n ? _mm512_loadu_ps(block + (k + i) * kPatches) : _mm512_setzero_ps();
      half[i] = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(f)));
      const __m512 r = _mm512_sub_ps(f, _mm512_castsi512_ps(_mm512_slli_epi32(half[i], 16)));
      largest = _mm512_max_ps(largest, _mm512_abs_ps(f));
      square = _mm512_fmadd_ps(f, f, square);
      residual = _mm512_fmadd_ps(r, r, residual);
    }
    _mm512_storeu_si512(to + (k / 32 * kVectors + v) * kTile + k % 32 / 2 * 16,
                        _mm512_or_si512(half[0], _mm512_slli_epi32(half[1], 16)));
  }
  __m512 error = _mm512_mul_ps(_mm512_set1_ps(head.largest), _mm512_sqrt_ps(residual));
  error = _mm512_fmadd_ps(_mm512_set1_ps(head.error + slack(z.n) * head.norm), _mm512_sqrt_ps(square), error);
  const __mmask16 usable = _mm512_cmp_ps_mask(largest, _mm512_set1_ps(kFlat), _CMP_GE_OQ);
  // A thousandth more than 2 E for the rounding of these lines.
  return _mm512_mask_mul_ps(_mm512_set1_ps(-1.0f), usable, error, _mm512_set1_ps(2.002f));
}

// The largest |score| of a group for each of 48 patches, from its tiles [v][16 atoms][16 patches].
FASTSR_INLINE void largest_of(const float* scores, float* group, __m512* best) {
  for (int v = 0; v < kVectors; ++v) {
    __m512 top[4];
    for (int i = 0; i < 4; ++i) top[i] = _mm512_abs_ps(_mm512_loadu_ps(scores + v * kTile + i * 16));
    for (int a = 4; a < 16; a += 4)
      for (int i = 0; i < 4; ++i)
        top[i] = _mm512_max_ps(top[i], _mm512_abs_ps(_mm512_loadu_ps(scores + v * kTile + (a + i) * 16)));
    const __m512 score = _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
    _mm512_storeu_ps(group + v * 16, score);
    best[v] = _mm512_max_ps(best[v], score);
  }
}

// Coarse scores of all atoms for a block of patches: the largest of every group of 16, and of all. Scores leave the
// tiles through two buffers in turns: those of one group are looked through while the next is multiplied.
__attribute__((noinline)) void coarse_scores(const CoarseSizes& z, const float* packed, float* rounded, float* groups,
                                             __m512* best) {
  const float* atoms = packed + z.tiles;
  float* scores = rounded + z.steps * kVectors * kTile;
  for (int64_t g = 0; g < z.groups; ++g) {
    float* now = scores + g % 2 * kVectors * kTile;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    for (int64_t step = 0; step < z.steps; ++step, atoms += kTile) {
      const float* features = rounded + step * kVectors * kTile;
      _tile_loadd(3, atoms, 64);
      if (z.steps > 1 || g == 0) {
        _tile_loadd(4, features, 64);
        _tile_loadd(5, features + kTile, 64);
        _tile_loadd(6, features + 2 * kTile, 64);
      }
      _tile_dpbf16ps(0, 3, 4);
      _tile_dpbf16ps(1, 3, 5);
      _tile_dpbf16ps(2, 3, 6);
    }
    _tile_stored(0, now, 64);
    _tile_stored(1, now + kTile, 64);
    _tile_stored(2, now + 2 * kTile, 64);
    if (g > 0) largest_of(scores + (g + 1) % 2 * kVectors * kTile, groups + (g - 1) * kPatches, best);
  }
  largest_of(scores + (z.groups + 1) % 2 * kVectors * kTile, groups + (z.groups - 1) * kPatches, best);
}

}  // namespace
}  // namespace fastsr
