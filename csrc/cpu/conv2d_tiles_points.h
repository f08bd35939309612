// SPDX-License-Identifier: Apache-2.0
// Winograd F(S x S, 3 x 3): tiles of S x S pixels, computed at (S + 2)^2 points. Points, transforms, and how lanes become
// tiles.
#pragma once

#include "cpu/simd.h"

namespace fastsr {
namespace {

template <int S>
struct Tiles {
  static_assert(S == 4 || S == 6, "points are known for these");
  static constexpr int kSide = S, kEdge = S + 2, kPoints = kEdge * kEdge;
};
// The points beside 0 and infinity: +-kA, +-kB (S = 4), +-1/2, +-1, +-2 (S = 6).
constexpr double kA = 0.75, kB = 1.5;
constexpr double kTilePoints4[5] = {0, kA, -kA, kB, -kB};
constexpr double kTilePoints6[7] = {0, 0.5, -0.5, 1, -1, 2, -2};

// g w of a row of three weights at point `p`.
template <int S>
void weights_at_point(int p, double (&g)[3]) {
  const double* points = S == 4 ? kTilePoints4 : kTilePoints6;
  if (p == S + 1) {  // infinity
    g[0] = g[1] = 0;
    g[2] = 1;
    return;
  }
  double divisor = 1;
  for (int q = 0; q < S + 1; ++q)
    if (q != p) divisor *= points[p] - points[q];
  g[0] = 1 / divisor;
  g[1] = points[p] / divisor;
  g[2] = points[p] * points[p] / divisor;
}

// B' d of six values.
FASTSR_INLINE void tile_in(const vf (&d)[6], vf (&v)[6]) {
  constexpr float a = kA, b = kB, a2 = a * a, b2 = b * b;
  v[0] = fmadd(d[0], set1(a2 * b2), fmadd(d[2], set1(-(a2 + b2)), d[4]));
  const vf even = fmadd(d[2], set1(-b2), d[4]), odd = fmadd(d[1], set1(-a * b2), mul(d[3], set1(a)));
  v[1] = add(even, odd);
  v[2] = sub(even, odd);
  const vf even2 = fmadd(d[2], set1(-a2), d[4]), odd2 = fmadd(d[1], set1(-b * a2), mul(d[3], set1(b)));
  v[3] = add(even2, odd2);
  v[4] = sub(even2, odd2);
  v[5] = fmadd(d[1], set1(a2 * b2), fmadd(d[3], set1(-(a2 + b2)), d[5]));
}

// B' d of eight values.
FASTSR_INLINE void tile_in(const vf (&d)[8], vf (&v)[8]) {
  v[0] = fmadd(sub(d[2], d[4]), set1(5.25f), sub(d[6], d[0]));
  v[7] = fmadd(sub(d[3], d[5]), set1(5.25f), sub(d[7], d[1]));
  const vf half_even = fmadd(d[2], set1(4.0f), fmadd(d[4], set1(-5.0f), d[6]));
  const vf half_odd = fmadd(d[1], set1(2.0f), fmadd(d[3], set1(-2.5f), mul(d[5], set1(0.5f))));
  v[1] = add(half_even, half_odd);
  v[2] = sub(half_even, half_odd);
  const vf one_even = fmadd(d[4], set1(-4.25f), add(d[2], d[6])), one_odd = fmadd(d[3], set1(-4.25f), add(d[1], d[5]));
  v[3] = add(one_even, one_odd);
  v[4] = sub(one_even, one_odd);
  const vf two_even = fmadd(d[2], set1(0.25f), fmadd(d[4], set1(-1.25f), d[6]));
  const vf two_odd = fmadd(d[1], set1(0.5f), fmadd(d[3], set1(-2.5f), mul(d[5], set1(2.0f))));
  v[5] = add(two_even, two_odd);
  v[6] = sub(two_even, two_odd);
}

// A' m of six values.
FASTSR_INLINE void tile_out(const vf (&m)[6], vf (&y)[4]) {
  constexpr float a = kA, b = kB;
  const vf s1 = add(m[1], m[2]), d1 = sub(m[1], m[2]), s2 = add(m[3], m[4]), d2 = sub(m[3], m[4]);
  y[0] = add(m[0], add(s1, s2));
  y[1] = fmadd(d2, set1(b), mul(d1, set1(a)));
  y[2] = fmadd(s2, set1(b * b), mul(s1, set1(a * a)));
  y[3] = add(fmadd(d2, set1(b * b * b), mul(d1, set1(a * a * a))), m[5]);
}

// A' m of eight values.
FASTSR_INLINE void tile_out(const vf (&m)[8], vf (&y)[6]) {
  const vf s1 = add(m[1], m[2]), d1 = sub(m[1], m[2]), s2 = add(m[3], m[4]), d2 = sub(m[3], m[4]);
  const vf s3 = add(m[5], m[6]), d3 = sub(m[5], m[6]);
  y[0] = add(add(m[0], s1), add(s2, s3));
  y[1] = fmadd(d1, set1(0.5f), fmadd(d3, set1(2.0f), d2));
  y[2] = fmadd(s1, set1(0.25f), fmadd(s3, set1(4.0f), s2));
  y[3] = fmadd(d1, set1(0.125f), fmadd(d3, set1(8.0f), d2));
  y[4] = fmadd(s1, set1(0.0625f), fmadd(s3, set1(16.0f), s2));
  y[5] = add(fmadd(d1, set1(0.03125f), fmadd(d3, set1(32.0f), d2)), m[7]);
}

// Lanes become tiles: d[k][i] = row[S i + k], k < S + 2, of a row that continues with the first lanes of `next` and
// `after`.
#if defined(FASTSR_AVX512)
FASTSR_INLINE vf evens(vf a, vf b) {
  const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(a, at, b);
}
FASTSR_INLINE vf odds(vf a, vf b) {
  const __m512i at = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm512_permutex2var_ps(a, at, b);
}
// out[k][i] = value 3 i + k of three vectors
FASTSR_INLINE void thirds(vf a, vf b, vf c, vf& x, vf& y, vf& z) {
  const __m512i x1 = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
  const __m512i x2 = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
  const __m512i y1 = _mm512_setr_epi32(1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 0, 0, 0, 0, 0);
  const __m512i y2 = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 21, 24, 27, 30);
  const __m512i z1 = _mm512_setr_epi32(2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 0, 0, 0, 0, 0, 0);
  const __m512i z2 = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19, 22, 25, 28, 31);
  x = _mm512_permutex2var_ps(_mm512_permutex2var_ps(a, x1, b), x2, c);
  y = _mm512_permutex2var_ps(_mm512_permutex2var_ps(a, y1, b), y2, c);
  z = _mm512_permutex2var_ps(_mm512_permutex2var_ps(a, z1, b), z2, c);
}
FASTSR_INLINE vf shifted(vf v, vf next) {
  return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(next), _mm512_castps_si512(v), 1));
}
FASTSR_INLINE void lanes_to_tiles(const vf (&row)[4], vf next, vf after, vf (&d)[6]) {
  const vf e0 = evens(row[0], row[1]), e1 = evens(row[2], row[3]);
  const vf o0 = odds(row[0], row[1]), o1 = odds(row[2], row[3]);
  d[0] = evens(e0, e1);
  d[1] = evens(o0, o1);
  d[2] = odds(e0, e1);
  d[3] = odds(o0, o1);
  d[4] = shifted(d[0], next);
  d[5] = shifted(d[1], after);
}
FASTSR_INLINE void lanes_to_tiles(const vf (&row)[6], vf next, vf after, vf (&d)[8]) {
  thirds(evens(row[0], row[1]), evens(row[2], row[3]), evens(row[4], row[5]), d[0], d[2], d[4]);
  thirds(odds(row[0], row[1]), odds(row[2], row[3]), odds(row[4], row[5]), d[1], d[3], d[5]);
  d[6] = shifted(d[0], next);
  d[7] = shifted(d[1], after);
}
#else
template <int S>
FASTSR_INLINE void lanes_to_tiles(const vf (&row)[S], vf next, vf after, vf (&d)[S + 2]) {
  float line[(S + 1) * kLanes + 1], tiles[kLanes];
  for (int k = 0; k < S; ++k) store(line + k * kLanes, row[k]);
  store(line + S * kLanes, next);
  store(line + S * kLanes + 1, after);
  for (int k = 0; k < S + 2; ++k) {
    for (int i = 0; i < kLanes; ++i) tiles[i] = line[S * i + k];
    d[k] = load(tiles);
  }
}
#endif

// p[S i + k] = v[k][i]
FASTSR_INLINE void tiles_to_lanes(const vf (&v)[4], float* p) { interleave4(v, p); }
FASTSR_INLINE void tiles_to_lanes(const vf (&v)[6], float* p) {
#if defined(FASTSR_AVX512)
  const vf even[3] = {v[0], v[2], v[4]}, odd[3] = {v[1], v[3], v[5]};
  vf e[3], o[3];
  weave3(even, e);
  weave3(odd, o);
  for (int k = 0; k < 3; ++k) {
    const vf both[2] = {e[k], o[k]};
    interleave2(both, p + 2 * k * kLanes);
  }
#else
  float line[6][kLanes];
  for (int k = 0; k < 6; ++k) store(line[k], v[k]);
  for (int i = 0; i < kLanes; ++i)
    for (int k = 0; k < 6; ++k) p[6 * i + k] = line[k][i];
#endif
}

}  // namespace
}  // namespace fastsr
