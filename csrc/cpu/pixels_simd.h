// SPDX-License-Identifier: Apache-2.0
// What packed pixels need beside cpu/simd.h: division, products fused in every ISA, integers, bytes in turns.
#pragma once

#include "cpu/simd.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastsr {
namespace {

#if defined(FASTSR_AVX512)

using vi = __m512i;
FASTSR_INLINE vf fused(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
FASTSR_INLINE vf to_float(vi v) { return _mm512_cvtepi32_ps(v); }
// Towards zero.
FASTSR_INLINE vi to_int(vf v) { return _mm512_cvttps_epi32(v); }
FASTSR_INLINE vi either(vi a, vi b) { return _mm512_or_si512(a, b); }
template <int BITS>
FASTSR_INLINE vi left(vi v) {
  return _mm512_slli_epi32(v, BITS);
}
// Byte PLACE of each lane.
template <int PLACE>
FASTSR_INLINE vi byte(vi v) {
  return _mm512_and_si512(_mm512_srli_epi32(v, 8 * PLACE), _mm512_set1_epi32(255));
}
FASTSR_INLINE vi load_bytes(const unsigned char* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
FASTSR_INLINE void store_bytes(unsigned char* p, vi v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
FASTSR_INLINE void store_words(uint16_t* p, vi v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
}
// A pixel a lane: 4 bytes each, or 3.
FASTSR_INLINE vi load_fours(const unsigned char* p) { return _mm512_loadu_si512(p); }
FASTSR_INLINE void store_fours(unsigned char* p, vi v) { _mm512_storeu_si512(p, v); }
FASTSR_INLINE vi load_threes(const unsigned char* p) {
  const vi spread = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
  const vi apart = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
  return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(spread, _mm512_maskz_loadu_epi32(0x0fff, p)), apart);
}
FASTSR_INLINE void store_threes(unsigned char* p, vi v) {
  const vi together = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const vi dense = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
  _mm512_mask_storeu_epi32(p, 0x0fff, _mm512_permutexvar_epi32(dense, _mm512_shuffle_epi8(v, together)));
}

#elif defined(FASTSR_ISA_AVX2)

using vi = __m256i;
FASTSR_INLINE vf fused(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FASTSR_INLINE vf to_float(vi v) { return _mm256_cvtepi32_ps(v); }
FASTSR_INLINE vi to_int(vf v) { return _mm256_cvttps_epi32(v); }
FASTSR_INLINE vi either(vi a, vi b) { return _mm256_or_si256(a, b); }
template <int BITS>
FASTSR_INLINE vi left(vi v) {
  return _mm256_slli_epi32(v, BITS);
}
template <int PLACE>
FASTSR_INLINE vi byte(vi v) {
  return _mm256_and_si256(_mm256_srli_epi32(v, 8 * PLACE), _mm256_set1_epi32(255));
}
FASTSR_INLINE vi load_bytes(const unsigned char* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
FASTSR_INLINE __m128i words(vi v) {
  return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}
FASTSR_INLINE void store_words(uint16_t* p, vi v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words(v)); }
FASTSR_INLINE void store_bytes(unsigned char* p, vi v) {
  const __m128i w = words(v);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(w, w));
}
FASTSR_INLINE vi load_fours(const unsigned char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
FASTSR_INLINE void store_fours(unsigned char* p, vi v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
FASTSR_INLINE vi six() { return _mm256_setr_epi32(-1, -1, -1, -1, -1, -1, 0, 0); }
FASTSR_INLINE vi load_threes(const unsigned char* p) {
  const vi spread = _mm256_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5);
  const vi apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
  const vi v = _mm256_maskload_epi32(reinterpret_cast<const int*>(p), six());
  return _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(v, spread), apart);
}
FASTSR_INLINE void store_threes(unsigned char* p, vi v) {
  const vi together =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const vi dense = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
  const vi made = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v, together), dense);
  _mm256_maskstore_epi32(reinterpret_cast<int*>(p), six(), made);
}

#else

typedef int32_t vi __attribute__((vector_size(16)));
typedef double vd __attribute__((vector_size(32)));
#if defined(__aarch64__)
FASTSR_INLINE vf fused(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
// By way of doubles, which hold a product exactly. Their sum is rounded twice: one result in 10^8 or so is another.
FASTSR_INLINE vf fused(vf a, vf b, vf c) {
  return __builtin_convertvector(
      __builtin_convertvector(a, vd) * __builtin_convertvector(b, vd) + __builtin_convertvector(c, vd), vf);
}
#endif
FASTSR_INLINE vf to_float(vi v) { return __builtin_convertvector(v, vf); }
FASTSR_INLINE vi to_int(vf v) { return __builtin_convertvector(v, vi); }
FASTSR_INLINE vi either(vi a, vi b) { return a | b; }
template <int BITS>
FASTSR_INLINE vi left(vi v) {
  return v << BITS;
}
template <int PLACE>
FASTSR_INLINE vi byte(vi v) {
  return (v >> (8 * PLACE)) & 255;
}
FASTSR_INLINE vi load_bytes(const unsigned char* p) { return vi{p[0], p[1], p[2], p[3]}; }
FASTSR_INLINE void store_bytes(unsigned char* p, vi v) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<unsigned char>(v[i]);
}
FASTSR_INLINE void store_words(uint16_t* p, vi v) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(v[i]);
}
FASTSR_INLINE vi load_threes(const unsigned char* p) {
  vi v{};
  for (int i = 0; i < kLanes; ++i) v[i] = p[3 * i] | p[3 * i + 1] << 8 | p[3 * i + 2] << 16;
  return v;
}
FASTSR_INLINE vi load_fours(const unsigned char* p) {
  vi v{};
  for (int i = 0; i < kLanes; ++i)
    v[i] = p[4 * i] | p[4 * i + 1] << 8 | p[4 * i + 2] << 16 | (p[4 * i + 3] & 127) << 24;
  for (int i = 0; i < kLanes; ++i) v[i] = p[4 * i + 3] & 128 ? v[i] | INT32_MIN : v[i];
  return v;
}
FASTSR_INLINE void store_threes(unsigned char* p, vi v) {
  for (int i = 0; i < kLanes; ++i)
    for (int k = 0; k < 3; ++k) p[3 * i + k] = static_cast<unsigned char>(v[i] >> (8 * k));
}
FASTSR_INLINE void store_fours(unsigned char* p, vi v) {
  for (int i = 0; i < kLanes; ++i)
    for (int k = 0; k < 4; ++k) p[4 * i + k] = static_cast<unsigned char>(v[i] >> (8 * k));
}

#endif

}  // namespace
}  // namespace fastsr
