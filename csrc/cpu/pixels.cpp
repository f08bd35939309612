// SPDX-License-Identifier: Apache-2.0
// pixels           packed pixels -> rows of floats, colours mixed, rows enlarged by bicubic, and back     core/pixel_rows.h
// work             of an output pixel of RGB around a network on Y: 16 products and sums along rows, 8 / s down columns,
//                  9 + 3 for the colours, 12 to clip and round, from rows that lie in L1
// cost             640 x 360 x 3 bytes to 1920 x 1080: 7 MB of traffic and 0.1 G lane operations; 1.5 ms on 2 cores of Zen 4
#include "core/pixel_rows.h"
#include "cpu/pixels_simd.h"

namespace fastsr {
namespace {

// --- from packed pixels ---------------------------------------------------------------------------------------------

template <class T>
FASTSR_INLINE T read(const unsigned char* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

FASTSR_INLINE float value(const unsigned char* p, Sample sample, bool swapped, int shift) {
  if (sample == Sample::kU8) return *p;
  if (sample == Sample::kU16) {
    uint16_t v = read<uint16_t>(p);
    if (swapped) v = __builtin_bswap16(v);
    return static_cast<float>(v >> shift);
  }
  uint32_t v = read<uint32_t>(p);
  if (swapped) v = __builtin_bswap32(v);
  float out;
  __builtin_memcpy(&out, &v, sizeof out);
  return out;
}

// Not yet divided. A step that the compiler knows lets it use vectors.
template <class T, int STEP>
FASTSR_INLINE void copy_channel(const unsigned char* p, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(read<T>(p + i * STEP * static_cast<int64_t>(sizeof(T))));
}

template <class T>
FASTSR_INLINE bool copy_by_step(const unsigned char* p, int64_t step, int64_t n, float* out) {
  const int64_t size = sizeof(T);
  if (step == size) return copy_channel<T, 1>(p, n, out), true;
  if (step == 2 * size) return copy_channel<T, 2>(p, n, out), true;
  if (step == 3 * size) return copy_channel<T, 3>(p, n, out), true;
  if (step == 4 * size) return copy_channel<T, 4>(p, n, out), true;
  return false;
}

void unpack_channel(const Samples& from, int k, int64_t n, float* out) {
  const unsigned char* p = from.channel[k];
  bool done = false;
  if (!from.swapped && !from.shift) {
    if (from.sample == Sample::kU8) done = copy_by_step<uint8_t>(p, from.step, n, out);
    if (from.sample == Sample::kU16) done = copy_by_step<uint16_t>(p, from.step, n, out);
    if (from.sample == Sample::kF32) done = copy_by_step<float>(p, from.step, n, out);
  }
  if (!done)
    for (int64_t i = 0; i < n; ++i) out[i] = value(p + i * from.step, from.sample, from.swapped, from.shift);
  if (from.sample == Sample::kF32) return;
  const vf levels = set1(from.levels);
  for (int64_t i = 0; i < n; i += kLanes) store(out + i, div(load(out + i), levels));
}

template <int C>
FASTSR_INLINE void unpack_lanes(const unsigned char* p, vf levels, int64_t i, float* const* rows) {
  const vi v = C == 4 ? load_fours(p) : load_threes(p);
  store(rows[0] + i, div(to_float(byte<0>(v)), levels));
  store(rows[1] + i, div(to_float(byte<1>(v)), levels));
  store(rows[2] + i, div(to_float(byte<2>(v)), levels));
  if (C == 4) store(rows[3] + i, div(to_float(byte<3>(v)), levels));
}

template <int C>
FASTSR_INLINE void unpack_bytes(const Samples& from, int64_t n, float* const* rows) {
  const unsigned char* p = from.channel[from.order[0]];
  const vf levels = set1(from.levels);
  float* const sorted[4] = {rows[from.order[0]], rows[from.order[1]], rows[from.order[2]], C == 4 ? rows[3] : nullptr};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) unpack_lanes<C>(p + i * C, levels, i, sorted);
  if (i == n) return;
  unsigned char rest[4 * kLanes] = {};
  for (int64_t b = 0; b < (n - i) * C; ++b) rest[b] = p[i * C + b];
  unpack_lanes<C>(rest, levels, i, sorted);
}

void unpack(const Samples& from, int64_t n, float* const* rows) {
  if (from.adjacent && from.sample == Sample::kU8 && from.channels == 3) return unpack_bytes<3>(from, n, rows);
  if (from.adjacent && from.sample == Sample::kU8 && from.channels == 4) return unpack_bytes<4>(from, n, rows);
  for (int k = 0; k < from.channels; ++k) unpack_channel(from, k, n, rows[k]);
}

// --- rows of floats -------------------------------------------------------------------------------------------------

FASTSR_INLINE vf mixed(const Mix& m, vf a, vf b, vf c) {
  return add(fused(set1(m.m[2]), c, fused(set1(m.m[1]), b, mul(set1(m.m[0]), a))), set1(m.offset));
}

void mix(const Mix& m, const float* a, const float* b, const float* c, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) store(out + i, mixed(m, load(a + i), load(b + i), load(c + i)));
}

void linear(const float* x, float scale, float offset, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf v = load_masked(x + i, first(n - i));
    store(out + i, fused(v, set1(scale), set1(offset)));
  }
}

void mean(const float* a, const float* b, const float* c, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const mask m = first(n - i);
    const vf sum = add(add(load_masked(a + i, m), load_masked(b + i, m)), load_masked(c + i, m));
    store(out + i, div(sum, set1(3.0f)));
  }
}

FASTSR_INLINE vf weighted(vf a, vf b, vf c, vf d, const vf* w) {
  return add(add(add(mul(w[0], a), mul(w[1], b)), mul(w[2], c)), mul(w[3], d));
}

void blend(const float* const* rows, const float* weight, int64_t n, float* out) {
  const vf w[4] = {set1(weight[0]), set1(weight[1]), set1(weight[2]), set1(weight[3])};
  for (int64_t i = 0; i < n; i += kLanes)
    store(out + i, weighted(load(rows[0] + i), load(rows[1] + i), load(rows[2] + i), load(rows[3] + i), w));
}

FASTSR_INLINE vf phase(const float* line, const CubicPhase& p) {
  const vf w[4] = {set1(p.weight[0]), set1(p.weight[1]), set1(p.weight[2]), set1(p.weight[3])};
  const float* x = line + p.first;
  return weighted(load(x), load(x + 1), load(x + 2), load(x + 3), w);
}

template <int S>
FASTSR_INLINE void widen_by(const float* line, const CubicPhase* phases, int64_t n, float* out) {
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    vf v[S];
    FASTSR_UNROLL for (int p = 0; p < S; ++p) v[p] = phase(line + j, phases[p]);
    interleave<S>(v, out + j * S);
  }
  if (j == n) return;
  vf v[S];
  float rest[S * kLanes];
  FASTSR_UNROLL for (int p = 0; p < S; ++p) v[p] = phase(line + j, phases[p]);
  interleave<S>(v, rest);
  for (int64_t i = 0; i < (n - j) * S; ++i) out[j * S + i] = rest[i];
}

void widen(const float* line, const CubicPhase* phases, int64_t scale, int64_t n, float* out) {
  if (scale == 2) return widen_by<2>(line, phases, n, out);
  if (scale == 3) return widen_by<3>(line, phases, n, out);
  if (scale == 4) return widen_by<4>(line, phases, n, out);
  float lane[kLanes];
  for (int64_t j = 0; j < n; j += kLanes)
    for (int64_t p = 0; p < scale; ++p) {
      store(lane, phase(line + j, phases[p]));
      for (int64_t i = 0; i < min(kLanes, n - j); ++i) out[(j + i) * scale + p] = lane[i];
    }
}

bool finite(const float* x, int64_t n) {
  int64_t i = 0;
  // 0 v is 0, or NaN of what is not finite, which stays.
  vf sum = set1(0.0f);
  for (; i + kLanes <= n; i += kLanes) sum = fmadd(load(x + i), set1(0.0f), sum);
  sum = fmadd(load_masked(x + i, first(n - i)), set1(0.0f), sum);
  float lane[kLanes];
  store(lane, sum);
  bool good = true;
  for (int k = 0; k < kLanes; ++k) good = good && lane[k] == 0.0f;
  return good;
}

void extent(const float* x, int64_t n, float* low, float* high) {
  vf a = set1(*low), b = set1(*high);
  for (int64_t i = 0; i < n; i += kLanes) {
    const mask m = first(n - i);
    const vf v = load_masked(x + i, m);
    a = min(a, select(m, v, a));
    b = max(b, select(m, v, b));
  }
  float lows[kLanes], highs[kLanes];
  store(lows, a);
  store(highs, b);
  for (int k = 0; k < kLanes; ++k) {
    *low = lows[k] < *low ? lows[k] : *low;
    *high = highs[k] > *high ? highs[k] : *high;
  }
}

// --- to packed pixels -----------------------------------------------------------------------------------------------

// NaN becomes 0.
FASTSR_INLINE vf clipped(vf v) { return min(max(v, set1(0.0f)), set1(1.0f)); }
FASTSR_INLINE vi nearest(vf v, vf levels) { return to_int(add(mul(clipped(v), levels), set1(0.5f))); }

template <class T>
FASTSR_INLINE void write(unsigned char* p, int64_t step, int64_t n, const T* made) {
  constexpr int64_t kSize = sizeof(T);
  if (n == kLanes && step == kSize) return static_cast<void>(__builtin_memcpy(p, made, kLanes * kSize));
  if (n == kLanes && step == 3 * kSize) {  // a step that the compiler knows
    FASTSR_UNROLL for (int i = 0; i < kLanes; ++i) __builtin_memcpy(p + i * 3 * kSize, made + i, kSize);
    return;
  }
  for (int64_t i = 0; i < n; ++i) __builtin_memcpy(p + i * step, made + i, sizeof(T));
}

FASTSR_INLINE void pack_channel(vf v, vf levels, int64_t n, unsigned char* p, const Samples& to) {
  if (to.sample == Sample::kF32) {
    uint32_t made[kLanes];
    store(reinterpret_cast<float*>(made), clipped(v));
    if (to.swapped)
      for (int i = 0; i < kLanes; ++i) made[i] = __builtin_bswap32(made[i]);
    return write(p, to.step, n, made);
  }
  if (to.sample == Sample::kU16) {
    uint16_t made[kLanes];
    store_words(made, nearest(v, levels));
    for (int i = 0; i < kLanes; ++i) made[i] = static_cast<uint16_t>(made[i] << to.shift);
    if (to.swapped)
      for (int i = 0; i < kLanes; ++i) made[i] = __builtin_bswap16(made[i]);
    return write(p, to.step, n, made);
  }
  unsigned char made[16];
  store_bytes(made, nearest(v, levels));
  write(p, to.step, n, made);
}

template <int C, bool BYTES, bool MIX>
FASTSR_INLINE void pack_lanes(const vf* x, const Mix* back, vf levels, int64_t i, int64_t n, const Samples& to) {
  vf v[4];
  FASTSR_UNROLL for (int k = 0; k < C; ++k) v[k] = MIX && k < 3 ? mixed(back[k], x[0], x[1], x[2]) : x[k];
  if (!BYTES) {
    FASTSR_UNROLL for (int k = 0; k < C; ++k) pack_channel(v[k], levels, n, to.channel[k] + i * to.step, to);
    return;
  }
  vi made = either(nearest(v[0], levels), left<8>(nearest(v[1], levels)));
  made = either(made, left<16>(nearest(v[2], levels)));
  if (C == 4) made = either(made, left<24>(nearest(v[3], levels)));
  unsigned char* p = to.channel[to.order[0]] + i * C;
  if (n == kLanes) return C == 4 ? store_fours(p, made) : store_threes(p, made);
  unsigned char rest[4 * kLanes];
  C == 4 ? store_fours(rest, made) : store_threes(rest, made);
  for (int64_t b = 0; b < n * C; ++b) p[b] = rest[b];
}

// BYTES: channels in the order of memory.
template <int C, bool BYTES, bool MIX>
FASTSR_INLINE void pack_as(const float* const* given, const Mix* mixes, int64_t n, const Samples& to) {
  const vf levels = set1(to.levels);
  const float* rows[4];
  Mix back[3];
  for (int k = 0; k < C; ++k) {
    const int from = BYTES && k < 3 ? to.order[k] : k;
    rows[k] = given[MIX ? k : from];
    if (MIX && k < 3) back[k] = mixes[from];
  }
  vf x[4];
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    FASTSR_UNROLL for (int k = 0; k < C; ++k) x[k] = load(rows[k] + i);
    pack_lanes<C, BYTES, MIX>(x, back, levels, i, kLanes, to);
  }
  if (i == n) return;
  FASTSR_UNROLL for (int k = 0; k < C; ++k) x[k] = load_masked(rows[k] + i, first(n - i));
  pack_lanes<C, BYTES, MIX>(x, back, levels, i, n - i, to);
}

template <int C, bool BYTES>
void pack_by(const float* const* rows, const Mix* back, int64_t n, const Samples& to) {
  back ? pack_as<C, BYTES, true>(rows, back, n, to) : pack_as<C, BYTES, false>(rows, back, n, to);
}

void pack(const float* const* rows, const Mix* back, int64_t n, const Samples& to) {
  const bool bytes = to.adjacent && to.sample == Sample::kU8;
  if (to.channels == 1) return pack_as<1, false, false>(rows, nullptr, n, to);
  if (to.channels == 2) return pack_as<2, false, false>(rows, nullptr, n, to);
  if (to.channels == 3) return bytes ? pack_by<3, true>(rows, back, n, to) : pack_by<3, false>(rows, back, n, to);
  bytes ? pack_by<4, true>(rows, back, n, to) : pack_by<4, false>(rows, back, n, to);
}

}  // namespace
}  // namespace fastsr

FASTSR_TABLE(PixelRows, pixels) = {FASTSR_STRING(FASTSR_ISA),
                                   fastsr::unpack,
                                   fastsr::mix,
                                   fastsr::linear,
                                   fastsr::mean,
                                   fastsr::blend,
                                   fastsr::widen,
                                   fastsr::pack,
                                   fastsr::finite,
                                   fastsr::extent};
