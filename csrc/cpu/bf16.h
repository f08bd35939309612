// SPDX-License-Identifier: Apache-2.0
// bfloat16 numbers, AMX's tile registers, and matrix products of both: [outputs x inputs] [inputs x columns], columns
// being lanes, summed in fp32. Two inputs share a 32-bit lane, as AVX-512-BF16 and AMX want them, so nothing is transposed:
// what is a row of floats for each of two channels in fp32 is one row of pairs here, and products are rows of floats.
#pragma once

#include "cpu/activations.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

// The nearest bfloat16, ties to even.
uint16_t to_bfloat16(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Inputs of a matrix are padded with zeros to this many, outputs to kOutputs; a product has kPixels columns.
constexpr int64_t kInputs = 32, kOutputs = 32, kPixels = 32;

// Rows of pairs of a matrix of `channels` inputs.
FASTSR_INLINE int64_t pair_rows(int64_t channels) { return round_up(channels, kInputs) / 2; }

// Floats that a packed matrix takes.
FASTSR_INLINE int64_t matrix_floats(int64_t outputs, int64_t inputs) {
  return round_up(outputs, kOutputs) * pair_rows(inputs);
}

#if defined(FASTSR_ISA_AMX)

constexpr int kTile = 256;  // floats of a tile: 16 rows of 64 bytes

// Shapes the tile registers of this thread for as long as it lives.
struct TileUnit {
  TileUnit() {
    struct alignas(64) {
      uint8_t palette = 1, row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
  }
  ~TileUnit() { _tile_release(); }
};

#else

struct TileUnit {};

#endif

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

FASTSR_INLINE vf even_of(vf pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16)); }

FASTSR_INLINE vf odd_of(vf pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32(-65536)));
}

// An activation of pairs.
FASTSR_INLINE vf on_pairs(Same, vf pairs) { return pairs; }
FASTSR_INLINE vf on_pairs(Relu, vf pairs) {  // a negative number is a negative integer
  return _mm512_castsi512_ps(_mm512_max_epi16(_mm512_castps_si512(pairs), _mm512_setzero_si512()));
}
FASTSR_INLINE vf on_pairs(Leaky act, vf pairs) { return to_pairs(act(even_of(pairs)), act(odd_of(pairs))); }

// Columns of a product: `side` x `side` taps, tap (ky, kx) from x + ky row + kx on, each [pair rows][line].
struct Columns32 {
  const float* x;
  int64_t line, side = 1, row = 0;
};

#if defined(FASTSR_ISA_AMX)

// Where the weight of output o and input k is, in uint16: [outputs / 16][inputs / 32][16 outputs][32 inputs].
FASTSR_INLINE int64_t weight_at(int64_t inputs, int64_t o, int64_t k) {
  return ((o / 16 * (pair_rows(inputs) / 16) + k / 32) * 16 + o % 16) * 32 + k % 32;
}

// 32 outputs from `o` on, 32 columns, to [32][step]. With `half`, 16 columns. `meanwhile` is called for each 32 inputs:
// the unit multiplies for 64 cycles, in which the core can do something else. A matrix of taps has their inputs one after
// the other, 32 at least of each.
template <typename Meanwhile>
FASTSR_INLINE void bf16_products(const float* matrix, int64_t inputs, int64_t o, const Columns32& columns, bool half,
                                 float* to, int64_t step, Meanwhile& meanwhile) {
  const int64_t steps = pair_rows(inputs) / 16;
  const float* w = matrix + o / 16 * columns.side * columns.side * steps * kTile;
  const float* next = w + columns.side * columns.side * steps * kTile;
  const int64_t stride = columns.line * 4, out = step * 4;
  _tile_zero(0);
  _tile_zero(2);
  if (!half) {
    _tile_zero(1);
    _tile_zero(3);
  }
  for (int64_t ky = 0; ky < columns.side; ++ky)
    for (int64_t kx = 0; kx < columns.side; ++kx) {
      const float* x = columns.x + ky * columns.row + kx;
      for (int64_t k = 0; k < steps; ++k, w += kTile, next += kTile, x += 16 * columns.line) {
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, next, 64);
        _tile_dpbf16ps(2, 5, 6);
        if (!half) {
          _tile_loadd(7, x + 16, stride);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(3, 5, 7);
        }
        meanwhile();
      }
    }
  if (!half) {
    _tile_stored(1, to + 16, out);
    _tile_stored(3, to + 16 * step + 16, out);
  }
  _tile_stored(0, to, out);
  _tile_stored(2, to + 16 * step, out);
}

#else

// [outputs / 8][pairs][8 outputs][2]
FASTSR_INLINE int64_t weight_at(int64_t inputs, int64_t o, int64_t k) {
  return ((o / 8 * pair_rows(inputs) + k / 2) * 8 + o % 8) * 2 + k % 2;
}

template <typename Meanwhile>
FASTSR_INLINE void bf16_products(const float* matrix, int64_t inputs, int64_t o, const Columns32& columns, bool half,
                                 float* to, int64_t step, Meanwhile&) {
  const int64_t rows = pair_rows(inputs), side = columns.side;
  for (int64_t g = 0; g < kOutputs; g += 8, to += 8 * step) {
    const float* w = matrix + (o + g) * side * side * rows;
    __m512 sum[8][2];
    FASTSR_UNROLL
    for (int i = 0; i < 8; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (int64_t tap = 0; tap < side * side; ++tap) {
      const float* from = columns.x + tap / side * columns.row + tap % side;
      for (int64_t k = 0; k < rows; ++k, w += 8, from += columns.line) {
        __builtin_prefetch(w + 512, 0, 2);  // weights come in order: one row ahead will do
        const __m512bh a = reinterpret_cast<__m512bh>(_mm512_loadu_ps(from));
        const __m512bh b = reinterpret_cast<__m512bh>(_mm512_loadu_ps(from + 16));
        FASTSR_UNROLL
        for (int i = 0; i < 8; ++i) {
          const __m512bh weight = reinterpret_cast<__m512bh>(_mm512_set1_ps(w[i]));
          sum[i][0] = _mm512_dpbf16_ps(sum[i][0], weight, a);
          sum[i][1] = _mm512_dpbf16_ps(sum[i][1], weight, b);
        }
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

FASTSR_INLINE void set_weight(float* matrix, int64_t inputs, int64_t o, int64_t k, float value) {
  reinterpret_cast<uint16_t*>(matrix)[weight_at(inputs, o, k)] = to_bfloat16(value);
}

// Where channels 2 k and 2 k + 1 of what a step multiplies lie, for k = 0, 1, ...: in one row of pairs, or in two rows of
// floats, which may be of two inputs.
struct Pair {
  const View *even, *odd;  // null: there is none
  int64_t even_row, odd_row;
  bool together;  // one row of pairs, that of `even`
};
class Pairs {
 public:
  explicit Pairs(const Args& a) : a_(a), left_(a.spec->channels_in) {}
  Pair next() {
    Pair pair{};
    if (left_ <= 0) return pair;
    pair.even = take(pair.even_row);
    pair.together = a_.spec->pairs_in[pair.even - a_.in];
    if (--left_ > 0 && !pair.together) pair.odd = take(pair.odd_row);
    --left_;
    return pair;
  }

 private:
  const View* take(int64_t& row) {
    for (; row_ >= a_.in[input_].channels; ++input_) row_ = 0;
    row = row_++;
    return a_.in + input_;
  }
  const Args& a_;
  int64_t left_, row_ = 0;
  int input_ = 0;
};

// Rows of pairs of pixels [from, to) of row y of a step's input, activated: pair k begins at `pairs` + k line; other lanes
// of a last vector become 0.
template <typename Act>
FASTSR_INLINE void make_pairs(const Args& a, Act act, int64_t y, int64_t from, int64_t to, float* pairs, int64_t line) {
  const vf zero = set1(0.0f);
  Pairs all(a);
  for (int64_t k = 0; k < pair_rows(a.spec->channels_in); ++k, pairs += line) {
    const Pair pair = all.next();
    const float* even = pair.even ? at(*pair.even, pair.even_row, y, from) : nullptr;
    const float* odd = pair.odd ? at(*pair.odd, pair.odd_row, y, from) : nullptr;
    for (int64_t x = 0; x < to - from; x += kLanes) {
      vf v = zero;
      if (pair.together) {
        v = on_pairs(act, load(even + x));
      } else {
        v = to_pairs(even ? act(load(even + x)) : zero, odd ? act(load(odd + x)) : zero);
      }
      store(pairs + x, select(first(to - from - x), v, zero));
    }
  }
}

// Writes two vectors of which n lanes exist.
FASTSR_INLINE void write(const Args& a, float* to, vf left, vf right, int64_t n) {
  if (n < 2 * kLanes) {
    store_masked(to, left, first(n));
    if (n > kLanes) store_masked(to + kLanes, right, first(n - kLanes));
  } else if (a.large && (reinterpret_cast<uintptr_t>(to) & (sizeof(vf) - 1)) == 0) {
    store_past(to, left);
    store_past(to + kLanes, right);
  } else {
    store(to, left);
    store(to + kLanes, right);
  }
}

#endif

}  // namespace
}  // namespace fastsr
