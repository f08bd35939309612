// SPDX-License-Identifier: Apache-2.0
// upsample_residual   out[s y + i, s x + j] = x[y, x] + w[:, :, i, j]' act(x[y, x]) + b           paper 002, section 3.2
// shapes              x [C, h, w]  w [C, C, s, s] (in, out)  b [C]  out [C, h s, w s]   f32
// work                one LR row and output phase i: G channels x s phases j x 2 vectors in registers, then interleaved
// cost                reads C h w, writes C h w s^2; 2 C^2 flops per output pixel
#include "core/kernel.h"
#include "cpu/activations.h"
#include "cpu/simd.h"
#include "ops/upsample_residual.h"
#include "cpu/upsample_bf16.h"

namespace fastsr {
namespace {

#if defined(FASTSR_AVX512)
constexpr int kVectors = 2;
constexpr int group_of(int s) { return 12 / s; }
#else
constexpr int kVectors = 1;
constexpr int group_of(int s) { return s == 2 ? 4 : s == 3 ? 3 : 2; }
#endif

int64_t groups(const Spec& spec) {
  const int64_t g = group_of(static_cast<int>(upsample_of(spec).scale));
  return (spec.channels_out + g - 1) / g;
}

// Bias [groups][G], then weights [i][groups][Ci][G][s], or a matrix of pairs.
size_t packed_bytes(const Spec& spec) {
  const int64_t padded = groups(spec) * group_of(static_cast<int>(upsample_of(spec).scale));
  const int64_t weights = spec.bf16 ? upsample_bf16_weights(spec)
                                    : padded * spec.channels_in * upsample_of(spec).scale * upsample_of(spec).scale;
  return static_cast<size_t>(round_up(padded, 16) + weights) * sizeof(float);
}

void pack(const Spec& spec, void* packed) {
  const int64_t s = upsample_of(spec).scale, g = group_of(static_cast<int>(s)), ci = spec.channels_in,
                co = spec.channels_out;
  float* bias = static_cast<float*>(packed);
  __builtin_memset(packed, 0, packed_bytes(spec));
  if (spec.weights[1].data) __builtin_memcpy(bias, spec.weights[1].data, static_cast<size_t>(co) * sizeof(float));
  float* to = bias + round_up(groups(spec) * g, 16);
#if defined(FASTSR_BF16)
  if (spec.bf16) return pack_upsample(spec, to);
#endif
  for (int64_t c = 0; c < ci; ++c)
    for (int64_t o = 0; o < co; ++o)
      for (int64_t i = 0; i < s; ++i)
        for (int64_t j = 0; j < s; ++j)
          to[((((i * groups(spec) + o / g) * ci + c) * g) + o % g) * s + j] =
              spec.weights[0].data[((c * co + o) * s + i) * s + j];
}

size_t scratch_bytes(const Spec& spec, const Rect&, const Rect& out) {
  return spec.bf16 ? static_cast<size_t>(upsample_bf16_floats(spec, out)) * sizeof(float) : 0;
}

bool bf16(const Spec& spec) { return spec.channels_in >= kInputs; }

bool pairs(const Spec& spec) { return spec.bf16; }

const char* algorithm(const Spec& spec) { return spec.bf16 ? "direct bf16" : "direct"; }

// Products of bfloat16 take about a tenth (of AMX) of the time. Interleaving and writing a number takes as long as 16
// multiply-adds.
int64_t work(const Spec& spec, const Rect& out) {
  return spec.channels_in * spec.channels_out * height(out) * round_up(width(out), kLanes * upsample_of(spec).scale) /
             (spec.bf16 ? 10 : 1) +
         16 * spec.channels_out * height(out) * width(out);
}

// V vectors of the LR row y from x on, of which n pixels exist, for G channels from c and output row s y + i.
template <int S, int V, typename Act>
FASTSR_INLINE void unit(const Args& a, Act activate, const float* w, const float* bias, int64_t c, int64_t y, int64_t x,
                        int64_t n, int64_t i) {
  constexpr int G = group_of(S);
  const View& in = a.in[0];
  const int64_t channels = a.spec->channels_in;
  vf sum[G][S][V];
  for (int g = 0; g < G; ++g)
    for (int v = 0; v < V; ++v) {
      const vf first = add(load(at(in, min(c + g, channels - 1), y, x) + v * kLanes), set1(bias[g]));
      FASTSR_UNROLL
      for (int j = 0; j < S; ++j) sum[g][j][v] = first;
    }
  const float* from = at(in, 0, y, x);
  for (int64_t k = 0; k < channels; ++k, from += in.channel_stride, w += G * S) {
    vf value[V];
    FASTSR_UNROLL
    for (int v = 0; v < V; ++v) value[v] = activate(load(from + v * kLanes));
    FASTSR_UNROLL
    for (int g = 0; g < G; ++g) {
      FASTSR_UNROLL
      for (int j = 0; j < S; ++j) {
        const vf weight = set1(w[g * S + j]);
        FASTSR_UNROLL
        for (int v = 0; v < V; ++v) sum[g][j][v] = fmadd(value[v], weight, sum[g][j][v]);
      }
    }
  }
  const Rect& r = a.out.rect;
  for (int g = 0; g < min(G, channels - c); ++g) {
    float* to = at(a.out, c + g, S * y + i, S * x);
    const bool inside = S * x >= r.x0 && S * (x + V * kLanes) <= r.x1;
    float line[S * V * kLanes];
    FASTSR_UNROLL
    for (int v = 0; v < V; ++v) {
      vf phases[S];
      FASTSR_UNROLL
      for (int j = 0; j < S; ++j) phases[j] = sum[g][j][v];
      interleave<S>(phases, (inside ? to : line) + S * kLanes * v);
    }
    if (inside) continue;
    for (int64_t k = max(0, r.x0 - S * x); k < min(S * n, r.x1 - S * x); ++k) to[k] = line[k];
  }
}

template <int S, typename Act>
void all(const Args& a, Act activate) {
  constexpr int G = group_of(S);
#if defined(FASTSR_BF16)
  if (a.spec->bf16) {
    const float* biases = static_cast<const float*>(a.packed);
    return all_bf16<S>(a, activate, biases, biases + round_up(groups(*a.spec) * G, 16));
  }
#endif
  const Rect& r = a.out.rect;
  const Rect& lr = a.in[0].rect;
  const float* bias = static_cast<const float*>(a.packed);
  const int64_t count = groups(*a.spec), size = a.spec->channels_in * G * S;
  const float* weights = bias + round_up(count * G, 16);
  for (int64_t y = lr.y0; y < lr.y1; ++y)
    for (int64_t i = max(0, r.y0 - S * y); i < min(S, r.y1 - S * y); ++i)
      for (int64_t c = 0; c < count; ++c) {
        const float* w = weights + (i * count + c) * size;
        for (int64_t x = lr.x0; x < lr.x1; x += kVectors * kLanes) {
          if (lr.x1 - x > kLanes) {
            unit<S, kVectors>(a, activate, w, bias + c * G, c * G, y, x, min(kVectors * kLanes, lr.x1 - x), i);
          } else {
            unit<S, 1>(a, activate, w, bias + c * G, c * G, y, x, min(kLanes, lr.x1 - x), i);
          }
        }
      }
}

template <int S>
void active(const Args& a) {
  switch (upsample_of(*a.spec).activation) {
    case Activation::kNone:
      return all<S>(a, Same{});
    case Activation::kRelu:
      return all<S>(a, Relu{});
    default:
      return all<S>(a, Leaky{set1(upsample_of(*a.spec).slope)});
  }
}

void run(const Args& a) {
  switch (upsample_of(*a.spec).scale) {
    case 2:
      return active<2>(a);
    case 3:
      return active<3>(a);
    default:
      return active<4>(a);
  }
}

}  // namespace
}  // namespace fastsr

FASTSR_KERNEL(upsample_residual) = {"upsample_residual",
                                    FASTSR_STRING(FASTSR_ISA),
                                    fastsr::packed_bytes,
                                    fastsr::pack,
                                    fastsr::scratch_bytes,
                                    fastsr::run,
                                    fastsr::work,
                                    nullptr,
                                    nullptr,
                                    fastsr::algorithm,
                                    fastsr::bf16,
                                    fastsr::pairs};
