// SPDX-License-Identifier: Apache-2.0
// upsample_residual by products of bfloat16 (cpu/bf16.h): one matrix [s s C outputs] [C inputs], of which an LR row's 32
// pixels take 32 outputs of the s phases of an output row at a time; the block before is interleaved meanwhile.
#pragma once

#include "core/kernel.h"
#include "cpu/bf16.h"
#include "cpu/simd.h"
#include "ops/upsample_residual.h"

namespace fastsr {
namespace {

FASTSR_INLINE int64_t phase_outputs(const Spec& spec) { return round_up(spec.channels_out, kOutputs); }

FASTSR_INLINE int64_t upsample_bf16_weights(const Spec& spec) {
  return matrix_floats(upsample_of(spec).scale * upsample_of(spec).scale * phase_outputs(spec), spec.channels_in);
}

// Two blocks of products, then an LR row as panels of pairs [panel][pair rows][32].
FASTSR_INLINE int64_t upsample_bf16_floats(const Spec& spec, const Rect& out) {
  return 2 * upsample_of(spec).scale * kOutputs * kPixels +
         pair_rows(spec.channels_in) * round_up(width(out) / upsample_of(spec).scale + 2, kPixels);
}

#if defined(FASTSR_BF16)

void pack_upsample(const Spec& spec, float* to) {
  const int64_t s = upsample_of(spec).scale, ci = spec.channels_in, co = spec.channels_out;
  __builtin_memset(to, 0, static_cast<size_t>(upsample_bf16_weights(spec)) * sizeof(float));
  for (int64_t c = 0; c < ci; ++c)
    for (int64_t o = 0; o < co; ++o)
      for (int64_t i = 0; i < s; ++i)
        for (int64_t j = 0; j < s; ++j)
          set_weight(to, ci, (i * s + j) * phase_outputs(spec) + o, c,
                     spec.weights[0].data[((c * co + o) * s + i) * s + j]);
}

// 32 channels from c on, of the LR row y's 32 pixels from x on, output row s y + i, that wait to be ended while others are
// multiplied: bias, the LR value itself, interleaving, store. Two channels at a time.
template <int S>
struct Phases {
  const Args& a;
  const float* bias;
  int64_t share;
  const float* products = nullptr;
  const float* lr = nullptr;
  float* to = nullptr;
  int64_t c = 0, end = 0, from = 0, until = 0;

  Phases(const Args& args, const float* biases, int64_t steps)
      : a(args), bias(biases), share(round_up((kOutputs + steps - 1) / steps, 2)) {}

  __attribute__((always_inline)) void begin(const float* made, int64_t group, int64_t y, int64_t x, int64_t i) {
    const Rect& r = a.out.rect;
    products = made;
    c = group;
    end = min(group + kOutputs, a.spec->channels_out);
    lr = at(a.in[0], a.spec->pairs_in[0] ? c / 2 : c, y, x);
    to = at(a.out, a.spec->pairs_out ? c / 2 : c, S * y + i, S * x);
    from = max(0, r.x0 - S * x);
    until = min(S * min(kPixels, a.in[0].rect.x1 - x), r.x1 - S * x);
  }
  __attribute__((always_inline)) void line(float* p, const vf (&left)[S], const vf (&right)[S]) const {
    alignas(64) float whole[2 * S * kLanes];
    interleave<S>(left, whole);
    interleave<S>(right, whole + S * kLanes);
    if (from == 0 && until == 2 * S * kLanes) {
      for (int64_t k = 0; k < 2 * S * kLanes; k += 2 * kLanes)
        write(a, p + k, load(whole + k), load(whole + k + kLanes), 2 * kLanes);
    } else {
      for (int64_t k = from; k < until; ++k) p[k] = whole[k];
    }
  }
  __attribute__((always_inline)) void end_until(int64_t stop) {
    const Spec& spec = *a.spec;
    for (; c < stop; c += 2, products += 2 * kPixels) {
      const bool both = c + 1 < end;
      vf sum[2][2][S];  // channel, vector, phase
      for (int v = 0; v < 2; ++v) {
        const vf x = load(lr + v * kLanes);
        const vf even = spec.pairs_in[0] ? even_of(x) : x;
        const vf odd = spec.pairs_in[0] ? odd_of(x)
                       : both           ? load(lr + a.in[0].channel_stride + v * kLanes)
                                        : set1(0.0f);
        for (int j = 0; j < S; ++j)
          for (int i = 0; i < 2; ++i)
            sum[i][v][j] = add(load(products + (j * kOutputs + i) * kPixels + v * kLanes),
                               add(i ? odd : even, set1(i && !both ? 0.0f : bias[c + i])));
      }
      if (spec.pairs_out) {
        vf pairs[2][S];
        for (int v = 0; v < 2; ++v)
          for (int j = 0; j < S; ++j) pairs[v][j] = to_pairs(sum[0][v][j], sum[1][v][j]);
        line(to, pairs[0], pairs[1]);
      } else {
        line(to, sum[0][0], sum[0][1]);
        if (both) line(to + a.out.channel_stride, sum[1][0], sum[1][1]);
      }
      lr += (spec.pairs_in[0] ? 1 : 2) * a.in[0].channel_stride;
      to += (spec.pairs_out ? 1 : 2) * a.out.channel_stride;
    }
  }
  __attribute__((always_inline)) void operator()() { end_until(min(end, c + share)); }
  __attribute__((always_inline)) void rest() { end_until(end); }
};

template <int S, typename Act>
void all_bf16(const Args& a, Act act, const float* bias, const float* matrix) {
  const TileUnit unit;
  (void)unit;
  const Spec& spec = *a.spec;
  const Rect& r = a.out.rect;
  const Rect& lr = a.in[0].rect;
  const int64_t ci = spec.channels_in, co = spec.channels_out, rows = pair_rows(ci);
  float* const products = static_cast<float*>(a.scratch);
  float* const panels = products + 2 * S * kOutputs * kPixels;
  Phases<S> ending(a, bias, S * rows / 16);
  int64_t turn = 0;
  for (int64_t y = lr.y0; y < lr.y1; ++y) {
    for (int64_t x = lr.x0; x < lr.x1; x += kPixels)
      make_pairs(a, act, y, x, min(lr.x1, x + kPixels), panels + (x - lr.x0) * rows, kPixels);
    for (int64_t i = max(0, r.y0 - S * y); i < min(S, r.y1 - S * y); ++i)
      for (int64_t c = 0; c < co; c += kOutputs)
        for (int64_t x = lr.x0; x < lr.x1; x += kPixels) {
          float* made = products + (turn ^= S * kOutputs * kPixels);
          for (int64_t j = 0; j < S; ++j)
            bf16_products(matrix, ci, (i * S + j) * phase_outputs(spec) + c, {panels + (x - lr.x0) * rows, kPixels},
                          false, made + j * kOutputs * kPixels, kPixels, ending);
          ending.rest();
          ending.begin(made, c, y, x, i);
        }
  }
  ending.rest();
  if (a.large) fence_past();
}

#endif

}  // namespace
}  // namespace fastsr
