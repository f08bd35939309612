// SPDX-License-Identifier: Apache-2.0
// The anchor search of anchored_regression through coarse scores: argmax_a |d_a . f| with the very bits of the plain
// search.
//
// Atoms and features are rounded, d = d' + e and f = f' + r, to bytes (anchored_vnni.h) or bfloat16 (anchored_amx.h),
// whose products are many an instruction. With D = max |d'|, e = max |e_a|, N = max |d_a|, and u the rounding of scores,
//     | |d_a . f| - |d'_a . f'| |  <=  D |r| + e |f| + u N |f|  =: E,
// so an atom whose coarse score lies more than 2 E below the largest coarse score cannot be the anchor. Only the groups
// of 16 atoms that hold a nearer one are scored in fp32, by the plain search's products in the plain search's order.
//
// u. The plain search adds n products by n fused multiply-adds: what it finds is off by at most g |d_a| |f|, with
// g = n 2^-24 / (1 - n 2^-24). A coarse score of bfloat16 is summed in fp32 as well and off by at most
// g |d'_a| |f'| <= g (1 + 2^-8)^2 |d_a| |f|; one of bytes is exact, an integer of at most 256 * 127^2 < 2^24. Together
// less than 2.01 g < 1.3e-7 n for all n <= 256, which the op's rule allows.
#pragma once

#include <immintrin.h>

#include "core/kernel.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

constexpr int kVectors = 3;  // of 16 patches
constexpr int kPatches = kVectors * 16;

// u with layout.
float slack(int64_t features) { return features <= 64 ? 1e-5f : 1.6e-7f * static_cast<float>(features); }

struct CoarseHead {
  float step;     // the unit of coarse scores is this times the patch's
  float largest;  // D
  float error;    // e
  float norm;     // max |d_a|
};

// Gathers a CoarseHead from the elements of the atoms and what they are rounded to.
struct Worst {
  double top_rounded = 0, top_error = 0, top_norm = 0, rounded = 0, error = 0, norm = 0;

  void add(double d, double to) {
    rounded += to * to;
    error += (d - to) * (d - to);
    norm += d * d;
  }
  void next() {
    top_rounded = __builtin_fmax(top_rounded, rounded);
    top_error = __builtin_fmax(top_error, error);
    top_norm = __builtin_fmax(top_norm, norm);
    rounded = error = norm = 0;
  }
  CoarseHead head(double step) const {
    return {static_cast<float>(step), static_cast<float>(__builtin_sqrt(top_rounded)),
            static_cast<float>(__builtin_sqrt(top_error)), static_cast<float>(__builtin_sqrt(top_norm))};
  }
};

}  // namespace
}  // namespace fastsr

#if defined(FASTSR_ISA_AMX)
#include "cpu/anchored_amx.h"
#else
#include "cpu/anchored_vnni.h"
#endif

namespace fastsr {
namespace {

void pack_search(const CoarseSizes& z, const float* atoms, int64_t count, float* to) {
  *reinterpret_cast<CoarseHead*>(to) = pack_coarse(z, atoms, count, to);
  for (int64_t a = 0; a < count; ++a)
    for (int64_t k = 0; k < z.n; ++k) to[z.exact + (a / 16 * z.n + k) * 16 + a % 16] = atoms[a * z.n + k];
}

// Scratch for one block of patches, in floats: rounded features, the largest coarse score of every group, and the list of
// (group, patch) to score exactly.
int64_t search_scratch(const CoarseSizes& z) { return z.rounded + 2 * z.groups * kPatches + 16; }

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
  const CoarseHead& head = *reinterpret_cast<const CoarseHead*>(packed);
  float* groups = scratch + z.rounded;
  __m512 reach[kVectors], top[kVectors];
  float best[kPatches];
  for (int v = 0; v < kVectors; ++v) {
    reach[v] = round_features(z, head, block, v, scratch);
    top[v] = _mm512_setzero_ps();
    _mm512_storeu_ps(best + v * 16, _mm512_set1_ps(-1.0f));
    _mm512_storeu_si512(anchor + v * 16, _mm512_setzero_si512());
  }
  coarse_scores(z, packed, scratch, groups, top);
  // Without branches: where the near groups are is anyone's guess.
  int32_t* pairs = reinterpret_cast<int32_t*>(groups + z.groups * kPatches);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
  for (int64_t g = 0; g < z.groups; ++g) {
    for (int v = 0; v < kVectors; ++v) {
      const __m512 least = _mm512_sub_ps(top[v], reach[v]);
      const __mmask16 near =
          _mm512_mask_cmp_ps_mask(real[v], _mm512_loadu_ps(groups + g * kPatches + v * 16), least, _CMP_GE_OQ);
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
