// SPDX-License-Identifier: Apache-2.0
// Float vectors of the ISA being compiled. FastsrOp.cmake compiles each kernel file once per ISA with FASTSR_ISA_<NAME>
// defined and the ISA's flags.
//
// A kernel file may use neither std:: containers nor any inline function of the standard library: built with
// -mavx512f such a function would be emitted as a weak symbol full of AVX-512 code which the linker may choose for
// the whole program. Everything here and in a kernel file has internal linkage; one table is exported.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(FASTSR_ISA_AVX512) || defined(FASTSR_ISA_AVX512BF16) || defined(FASTSR_ISA_AMX)
#define FASTSR_AVX512
#endif

#if defined(FASTSR_AVX512) || defined(FASTSR_ISA_AVX2)
#include <immintrin.h>
#elif defined(FASTSR_ISA_NEON)
#include <arm_neon.h>
#endif

#define FASTSR_INLINE static inline __attribute__((always_inline))
// Makes a pointer's value unknown to the compiler at no cost.
#define FASTSR_OPAQUE(pointer) __asm__("" : "+r"(pointer))
// Before a loop over an array of vectors: only a loop that is gone lets the array live in registers.
#if defined(__clang__)
#define FASTSR_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FASTSR_UNROLL _Pragma("GCC unroll 32")
#endif

namespace fastsr {
namespace {

// The value of an IEEE half float: its exponent and mantissa moved into a float's and scaled by the difference of the
// biases, which makes subnormal halves right as well. Infinities and NaN come out finite.
FASTSR_INLINE float half(uint16_t bits) {
  const uint32_t moved = static_cast<uint32_t>(bits & 0x7fff) << 13;
  float v;
  __builtin_memcpy(&v, &moved, sizeof v);
  v *= 0x1p112f;
  return bits & 0x8000 ? -v : v;
}
// The half float nearest to v towards zero; half(to_half(v)) == v says that v is one.
FASTSR_INLINE uint16_t to_half(float v) {
  float scaled = (v < 0 ? -v : v) * 0x1p-112f;
  uint32_t bits;
  __builtin_memcpy(&bits, &scaled, sizeof bits);
  bits >>= 13;
  return static_cast<uint16_t>((bits > 0x7bff ? 0x7bff : bits) | (__builtin_signbit(v) ? 0x8000 : 0));
}

#if defined(FASTSR_AVX512)

constexpr int kLanes = 16;
constexpr int kRegisters = 32;
using vf = __m512;
using mask = __mmask16;
FASTSR_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
FASTSR_INLINE void store(float* p, vf v) { _mm512_storeu_ps(p, v); }
// Past the caches; p is aligned. Others see it after fence_past.
FASTSR_INLINE void store_past(float* p, vf v) { _mm512_stream_ps(p, v); }
FASTSR_INLINE void fence_past() { _mm_sfence(); }
FASTSR_INLINE vf set1(float v) { return _mm512_set1_ps(v); }
// IEEE half floats as they lie in memory.
FASTSR_INLINE vf load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
FASTSR_INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
FASTSR_INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
FASTSR_INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
FASTSR_INLINE vf fmadd(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
FASTSR_INLINE vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
FASTSR_INLINE vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
FASTSR_INLINE vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
// v 2^n for a whole n from -126 to 127, v and the result normal.
FASTSR_INLINE vf times_power(vf v, vf n) { return _mm512_scalef_ps(v, n); }
FASTSR_INLINE vf abs(vf a) { return _mm512_abs_ps(a); }
// The first n lanes, 0 <= n; n >= kLanes means all.
FASTSR_INLINE mask first(int64_t n) { return n >= 16 ? 0xffff : static_cast<mask>((1u << n) - 1); }
FASTSR_INLINE mask without(mask a, mask b) { return static_cast<mask>(a & ~b); }
FASTSR_INLINE void store_masked(float* p, vf v, mask m) { _mm512_mask_storeu_ps(p, m, v); }
FASTSR_INLINE vf load_masked(const float* p, mask m) { return _mm512_maskz_loadu_ps(m, p); }
FASTSR_INLINE mask greater(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
FASTSR_INLINE vf select(mask m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }
FASTSR_INLINE bool any(mask m) { return m != 0; }
// out[k][i] = p[4 i + k]
FASTSR_INLINE void deinterleave4(const float* p, vf* out) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  const vf a = load(p), b = load(p + 16), c = load(p + 32), d = load(p + 48);
  const vf ab0 = _mm512_permutex2var_ps(a, even, b), ab1 = _mm512_permutex2var_ps(a, odd, b);
  const vf cd0 = _mm512_permutex2var_ps(c, even, d), cd1 = _mm512_permutex2var_ps(c, odd, d);
  out[0] = _mm512_permutex2var_ps(ab0, even, cd0);
  out[1] = _mm512_permutex2var_ps(ab1, even, cd1);
  out[2] = _mm512_permutex2var_ps(ab0, odd, cd0);
  out[3] = _mm512_permutex2var_ps(ab1, odd, cd1);
}
// p[4 i + k] = v[k][i]
FASTSR_INLINE void interleave4(const vf* v, float* p) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const vf a = _mm512_permutex2var_ps(v[0], low, v[2]), b = _mm512_permutex2var_ps(v[0], high, v[2]);
  const vf c = _mm512_permutex2var_ps(v[1], low, v[3]), d = _mm512_permutex2var_ps(v[1], high, v[3]);
  store(p, _mm512_permutex2var_ps(a, low, c));
  store(p + 16, _mm512_permutex2var_ps(a, high, c));
  store(p + 32, _mm512_permutex2var_ps(b, low, d));
  store(p + 48, _mm512_permutex2var_ps(b, high, d));
}
// p[2 i + k] = v[k][i]
FASTSR_INLINE void interleave2(const vf* v, float* p) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  store(p, _mm512_permutex2var_ps(v[0], low, v[1]));
  store(p + 16, _mm512_permutex2var_ps(v[0], high, v[1]));
}
// Three vectors of which value 3 i + k is v[k][i]: of each first what v[0] and v[1] give, then v[2] in between
FASTSR_INLINE void weave3(const vf* v, vf* to) {
  const __m512i two0 = _mm512_setr_epi32(0, 16, 0, 1, 17, 0, 2, 18, 0, 3, 19, 0, 4, 20, 0, 5);
  const __m512i two1 = _mm512_setr_epi32(21, 0, 6, 22, 0, 7, 23, 0, 8, 24, 0, 9, 25, 0, 10, 26);
  const __m512i two2 = _mm512_setr_epi32(0, 11, 27, 0, 12, 28, 0, 13, 29, 0, 14, 30, 0, 15, 31, 0);
  const __m512i all0 = _mm512_setr_epi32(0, 1, 16, 3, 4, 17, 6, 7, 18, 9, 10, 19, 12, 13, 20, 15);
  const __m512i all1 = _mm512_setr_epi32(0, 21, 2, 3, 22, 5, 6, 23, 8, 9, 24, 11, 12, 25, 14, 15);
  const __m512i all2 = _mm512_setr_epi32(26, 1, 2, 27, 4, 5, 28, 7, 8, 29, 10, 11, 30, 13, 14, 31);
  to[0] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(v[0], two0, v[1]), all0, v[2]);
  to[1] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(v[0], two1, v[1]), all1, v[2]);
  to[2] = _mm512_permutex2var_ps(_mm512_permutex2var_ps(v[0], two2, v[1]), all2, v[2]);
}
// p[3 i + k] = v[k][i]
FASTSR_INLINE void interleave3(const vf* v, float* p) {
  vf woven[3];
  weave3(v, woven);
  for (int k = 0; k < 3; ++k) store(p + 16 * k, woven[k]);
}

#elif defined(FASTSR_ISA_AVX2)

constexpr int kLanes = 8;
constexpr int kRegisters = 16;
using vf = __m256;
using mask = __m256i;
FASTSR_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
FASTSR_INLINE void store(float* p, vf v) { _mm256_storeu_ps(p, v); }
FASTSR_INLINE void store_past(float* p, vf v) { _mm256_stream_ps(p, v); }
FASTSR_INLINE void fence_past() { _mm_sfence(); }
FASTSR_INLINE vf set1(float v) { return _mm256_set1_ps(v); }
FASTSR_INLINE vf load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
FASTSR_INLINE vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
FASTSR_INLINE vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
FASTSR_INLINE vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
FASTSR_INLINE vf fmadd(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
FASTSR_INLINE vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
FASTSR_INLINE vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
FASTSR_INLINE vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
FASTSR_INLINE vf times_power(vf v, vf n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
FASTSR_INLINE vf abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
FASTSR_INLINE mask first(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : static_cast<int>(n)), lane);
}
FASTSR_INLINE mask without(mask a, mask b) { return _mm256_andnot_si256(b, a); }
FASTSR_INLINE void store_masked(float* p, vf v, mask m) { _mm256_maskstore_ps(p, m, v); }
FASTSR_INLINE vf load_masked(const float* p, mask m) { return _mm256_maskload_ps(p, m); }
FASTSR_INLINE mask greater(vf a, vf b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
FASTSR_INLINE vf select(mask m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m)); }
FASTSR_INLINE bool any(mask m) { return !_mm256_testz_si256(m, m); }

#else  // baseline and neon: GCC and Clang vector extensions, which are SSE2 on x86-64 and NEON on AArch64

constexpr int kLanes = 4;
#if defined(FASTSR_ISA_NEON)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
typedef float vf __attribute__((vector_size(16)));
typedef float vf_unaligned __attribute__((vector_size(16), aligned(4)));
typedef int32_t mask __attribute__((vector_size(16)));
FASTSR_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
FASTSR_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
FASTSR_INLINE void store_past(float* p, vf v) { store(p, v); }
FASTSR_INLINE void fence_past() {}
FASTSR_INLINE vf set1(float v) { return vf{v, v, v, v}; }
#if defined(FASTSR_ISA_NEON)
FASTSR_INLINE vf load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
#else
FASTSR_INLINE vf load_half(const uint16_t* p) { return vf{half(p[0]), half(p[1]), half(p[2]), half(p[3])}; }
#endif
FASTSR_INLINE vf add(vf a, vf b) { return a + b; }
FASTSR_INLINE vf sub(vf a, vf b) { return a - b; }
FASTSR_INLINE vf mul(vf a, vf b) { return a * b; }
#if defined(FASTSR_ISA_NEON)
FASTSR_INLINE vf fmadd(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
#else
// Two roundings: "baseline" gives the same bytes on every machine.
FASTSR_INLINE vf fmadd(vf a, vf b, vf c) { return a * b + c; }
#endif
FASTSR_INLINE vf select(mask m, vf yes, vf no) {
  return reinterpret_cast<vf>((reinterpret_cast<mask>(yes) & m) | (reinterpret_cast<mask>(no) & ~m));
}
FASTSR_INLINE mask greater(vf a, vf b) { return a > b; }
FASTSR_INLINE bool any(mask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
FASTSR_INLINE vf div(vf a, vf b) { return a / b; }
FASTSR_INLINE vf max(vf a, vf b) { return select(a > b, a, b); }
FASTSR_INLINE vf min(vf a, vf b) { return select(a < b, a, b); }
FASTSR_INLINE vf times_power(vf v, vf n) {
  typedef uint32_t bits __attribute__((vector_size(16)));
  const bits exponent = reinterpret_cast<bits>(__builtin_convertvector(n, mask)) << 23;
  return reinterpret_cast<vf>(reinterpret_cast<bits>(v) + exponent);
}
FASTSR_INLINE vf abs(vf a) {
  return reinterpret_cast<vf>(reinterpret_cast<mask>(a) & mask{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff});
}
FASTSR_INLINE mask first(int64_t n) {
  const int32_t k = n > 4 ? 4 : static_cast<int32_t>(n);
  return mask{0, 1, 2, 3} < mask{k, k, k, k};
}
FASTSR_INLINE mask without(mask a, mask b) { return a & ~b; }
FASTSR_INLINE void store_masked(float* p, vf v, mask m) {
  for (int i = 0; i < kLanes; ++i)
    if (m[i]) p[i] = v[i];
}
FASTSR_INLINE vf load_masked(const float* p, mask m) {
  vf v = set1(0.0f);
  for (int i = 0; i < kLanes; ++i)
    if (m[i]) v[i] = p[i];
  return v;
}

#endif

#if defined(FASTSR_ISA_NEON)
FASTSR_INLINE void deinterleave4(const float* p, vf* out) {
  const float32x4x4_t v = vld4q_f32(p);
  for (int k = 0; k < 4; ++k) out[k] = v.val[k];
}
FASTSR_INLINE void interleave2(const vf* v, float* p) { vst2q_f32(p, (float32x4x2_t{{v[0], v[1]}})); }
FASTSR_INLINE void interleave3(const vf* v, float* p) { vst3q_f32(p, (float32x4x3_t{{v[0], v[1], v[2]}})); }
FASTSR_INLINE void interleave4(const vf* v, float* p) { vst4q_f32(p, (float32x4x4_t{{v[0], v[1], v[2], v[3]}})); }
#elif !defined(FASTSR_AVX512)
// out[k][i] = p[4 i + k]
FASTSR_INLINE void deinterleave4(const float* p, vf* out) {
  float line[4][kLanes];
  for (int i = 0; i < kLanes; ++i)
    for (int k = 0; k < 4; ++k) line[k][i] = p[4 * i + k];
  for (int k = 0; k < 4; ++k) out[k] = load(line[k]);
}
template <int N>
FASTSR_INLINE void interleave_lanes(const vf* v, float* p) {
  float line[N][kLanes];
  for (int k = 0; k < N; ++k) store(line[k], v[k]);
  for (int i = 0; i < kLanes; ++i)
    for (int k = 0; k < N; ++k) p[N * i + k] = line[k][i];
}
// p[n i + k] = v[k][i]
FASTSR_INLINE void interleave2(const vf* v, float* p) { interleave_lanes<2>(v, p); }
FASTSR_INLINE void interleave3(const vf* v, float* p) { interleave_lanes<3>(v, p); }
FASTSR_INLINE void interleave4(const vf* v, float* p) { interleave_lanes<4>(v, p); }
#endif

// p[N i + k] = v[k][i]
template <int N>
FASTSR_INLINE void interleave(const vf* v, float* p) {
  if (N == 2) return interleave2(v, p);
  if (N == 3) return interleave3(v, p);
  interleave4(v, p);
}

// e^v, v between -87 and 87, what lies outside counting as the nearer of them: within 2 units of the last place
// (tests/ops/test_activations.py finds 1.5). NaN stays NaN. Cody and Waite: v = n ln 2 + r, e^v = 2^n e^r; ln 2 in two
// parts, of which n times the first is exact with and without fused products, and Cephes' polynomial for |r| <= ln 2 / 2.
FASTSR_INLINE vf exp(vf v) {
  v = min(set1(87.0f), max(set1(-87.0f), v));
  const vf shift = set1(0x1.8p23f);  // rounds to a whole number
  const vf n = sub(fmadd(v, set1(0x1.715476p0f), shift), shift);
  const vf r = fmadd(n, set1(2.12194440e-4f), fmadd(n, set1(-0.693359375f), v));
  vf p = fmadd(r, set1(1.9875691500e-4f), set1(1.3981999507e-3f));
  p = fmadd(p, r, set1(8.3334519073e-3f));
  p = fmadd(p, r, set1(4.1665795894e-2f));
  p = fmadd(p, r, set1(1.6666665459e-1f));
  p = fmadd(p, r, set1(5.0000001201e-1f));
  return times_power(add(set1(1.0f), fmadd(p, mul(r, r), r)), n);
}

FASTSR_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
FASTSR_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
FASTSR_INLINE int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
}  // namespace fastsr

#define FASTSR_CONCAT_(a, b, c, d) a##b##c##d
#define FASTSR_CONCAT(a, b, c, d) FASTSR_CONCAT_(a, b, c, d)
#define FASTSR_STRING_(s) #s
#define FASTSR_STRING(s) FASTSR_STRING_(s)
// FASTSR_TABLE(Type, name) = {...}: the one symbol a kernel file exports, named after what it is for and the ISA.
#define FASTSR_TABLE(Type, name)                                                  \
  extern const ::fastsr::Type FASTSR_CONCAT(fastsr_kernel_, name, _, FASTSR_ISA); \
  const ::fastsr::Type FASTSR_CONCAT(fastsr_kernel_, name, _, FASTSR_ISA)
// FASTSR_KERNEL(conv2d) = {"conv2d", ...}: an op's.
#define FASTSR_KERNEL(op) FASTSR_TABLE(Kernel, op)
