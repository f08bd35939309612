// SPDX-License-Identifier: Apache-2.0
// conv2d with large kernels: Winograd's F(4, 5) down the columns. Four rows of output take 8 products a column of five
// taps instead of 20; the transform of the input maps is shared by all output channels.
//
//     y = A' (G w * B' x),  A'[j][p] = p^j,  G[p][t] = p^t / prod_{q != p} (p - q),  p in {0, +-1, +-2, +-1/2, inf}
//
// Kernels of more than five rows are sums of such columns. Blocks of four rows lie at absolute multiples of four plus
// spec.phase, so that a pixel is computed alike in every tile.
#pragma once

#include "core/kernel.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

constexpr int kPoints = 8;
constexpr int64_t kBlockRows = 4;
constexpr int64_t kColumnTaps = 5;
constexpr double kPoint[kPoints - 1] = {0, 1, -1, 2, -2, 0.5, -0.5};
// Rows of B' are divided by these powers of two and rows of G multiplied: both stay near 1.
constexpr double kScale[kPoints] = {1, 4, 4, 4, 4, 4, 4, 4};

FASTSR_INLINE bool by_columns(const Spec& spec) { return spec.kernel >= kColumnTaps && spec.channels_out >= 8; }

// Offsets in floats from the start of the packed weights: the input transform, then the kernel's.
struct Columns {
  int64_t k, parts, terms, group_floats;  // parts: columns of five taps; terms: products summed per point

  explicit Columns(const Spec& spec) {
    k = spec.kernel;
    parts = (k + kColumnTaps - 1) / kColumnTaps;
    terms = spec.channels_in * parts * k;
    group_floats = kPoints * terms;  // times the channels of a group
  }
  static constexpr int64_t kTransform = kPoints * kPoints;
};

// B'[p][i]: the coefficients of prod_{q != p} (x - q), for infinity of the product of all.
void input_transform(float* to) {
  for (int p = 0; p < kPoints; ++p) {
    double c[kPoints] = {1};
    int degree = 0;
    for (int q = 0; q < kPoints - 1; ++q) {
      if (q == p) continue;
      ++degree;
      for (int i = degree; i > 0; --i) c[i] = c[i - 1] - kPoint[q] * c[i];
      c[0] *= -kPoint[q];
    }
    for (int i = 0; i < kPoints; ++i) to[p * kPoints + i] = static_cast<float>(c[i] / kScale[p]);
  }
}

// One column of n <= 5 taps (w[0], w[stride], ...) at point p.
double kernel_at(int p, const float* w, int64_t stride, int64_t n) {
  if (p == kPoints - 1) return n == kColumnTaps ? kScale[p] * static_cast<double>(w[(n - 1) * stride]) : 0.0;
  double sum = 0, power = 1, divisor = 1;
  for (int64_t t = 0; t < n; ++t, power *= kPoint[p]) sum += power * static_cast<double>(w[t * stride]);
  for (int q = 0; q < kPoints - 1; ++q)
    if (q != p) divisor *= kPoint[p] - kPoint[q];
  return kScale[p] * sum / divisor;
}

// [Co][Ci][k][k] -> [groups][points][parts][Ci][kx][group]
void pack_columns(const Spec& spec, int64_t group, float* to) {
  const Columns z(spec);
  const float* w = spec.weights[0].data;
  input_transform(to);
  to += Columns::kTransform;
  for (int64_t c = 0; c < spec.channels_out; ++c)
    for (int p = 0; p < kPoints; ++p)
      for (int64_t part = 0; part < z.parts; ++part)
        for (int64_t ci = 0; ci < spec.channels_in; ++ci)
          for (int64_t kx = 0; kx < z.k; ++kx) {
            const int64_t first = part * kColumnTaps;
            const int64_t term = (part * spec.channels_in + ci) * z.k + kx;
            to[(c / group * z.group_floats + p * z.terms + term) * group + c % group] = static_cast<float>(kernel_at(
                p, w + (c * spec.channels_in + ci) * z.k * z.k + first * z.k + kx, z.k, min(kColumnTaps, z.k - first)));
          }
}

// Scratch, in floats: one block's transformed input [parts][Ci][points][line], then one unit's products.
struct ColumnsRoom {
  int64_t line, products, total;

  ColumnsRoom(const Spec& spec, const Rect& out, int64_t group, int64_t wide) {
    const Columns z(spec);
    line = round_up(width(out), kLanes) + round_up(z.k, kLanes) + wide * kLanes;
    products = z.parts * spec.channels_in * kPoints * line;
    total = products + kPoints * group * wide * kLanes;
  }
};

// The first row of the blocks that cover a tile.
FASTSR_INLINE int64_t first_block(const Spec& spec, int64_t y) {
  const int64_t from = y - spec.phase;
  return (from >= 0 ? from / kBlockRows : -((kBlockRows - 1 - from) / kBlockRows)) * kBlockRows + spec.phase;
}

// Transforms the rows that the block of output rows from y reads.
void transform_input(const Args& a, const ColumnsRoom& room, const float* transform, int64_t y, float* to) {
  const Columns z(*a.spec);
  const View& in = a.in[0];
  for (int64_t part = 0; part < z.parts; ++part) {
    // A shorter column does not depend on the last rows, which may not exist: zeros do as well.
    const int rows = static_cast<int>(kBlockRows - 1 + min(kColumnTaps, z.k - part * kColumnTaps));
    for (int64_t ci = 0; ci < a.spec->channels_in; ++ci, to += kPoints * room.line) {
      const float* top = at(in, ci, y - z.k / 2 + part * kColumnTaps, in.rect.x0);
      for (int64_t x = 0; x < width(in.rect); x += kLanes) {
        vf row[kPoints];
        for (int i = 0; i < rows; ++i) row[i] = load(top + i * in.row_stride + x);
        for (int i = rows; i < kPoints; ++i) row[i] = set1(0.0f);
        for (int p = 0; p < kPoints; ++p) {
          vf sum = mul(row[0], set1(transform[p * kPoints]));
          for (int i = 1; i < kPoints; ++i) sum = fmadd(row[i], set1(transform[p * kPoints + i]), sum);
          store(to + p * room.line + x, sum);
        }
      }
    }
  }
}

// The products of G channels and V vectors at every point: [points][G][V] vectors.
template <int G, int V>
FASTSR_INLINE void multiply(const Spec& spec, const Columns& z, int64_t line, const float* w, const float* x,
                            float* to) {
  for (int p = 0; p < kPoints; ++p) {
    vf sum[G][V];
    FASTSR_UNROLL
    for (int g = 0; g < G; ++g)
      for (int v = 0; v < V; ++v) sum[g][v] = set1(0.0f);
    const float* from = x + p * line;
    for (int64_t part = 0; part < z.parts * spec.channels_in; ++part, from += kPoints * line) {
      for (int64_t kx = 0; kx < z.k; ++kx, w += G) {
        vf value[V];
        FASTSR_UNROLL
        for (int v = 0; v < V; ++v) value[v] = load(from + kx + v * kLanes);
        FASTSR_UNROLL
        for (int g = 0; g < G; ++g) {
          const vf weight = set1(w[g]);
          FASTSR_UNROLL
          for (int v = 0; v < V; ++v) sum[g][v] = fmadd(value[v], weight, sum[g][v]);
        }
      }
    }
    FASTSR_UNROLL
    for (int g = 0; g < G; ++g)
      for (int v = 0; v < V; ++v) store(to + ((p * G + g) * V + v) * kLanes, sum[g][v]);
  }
}

// Four rows of one channel and vector from its products: points come in pairs p, -p, which share even and odd powers.
FASTSR_INLINE void output_transform(const float* m, int64_t step, vf bias, vf* y) {
  const vf plus1 = load(m + step), minus1 = load(m + 2 * step), plus2 = load(m + 3 * step), minus2 = load(m + 4 * step);
  const vf plus3 = load(m + 5 * step), minus3 = load(m + 6 * step);
  const vf even1 = add(plus1, minus1), odd1 = sub(plus1, minus1), even2 = add(plus2, minus2), odd2 = sub(plus2, minus2);
  const vf even3 = add(plus3, minus3), odd3 = sub(plus3, minus3);
  const vf two = set1(2.0f), half = set1(0.5f), four = set1(4.0f), quarter = set1(0.25f), eight = set1(8.0f),
           eighth = set1(0.125f);
  y[0] = add(add(load(m), bias), add(even1, add(even2, even3)));
  y[1] = fmadd(odd2, two, fmadd(odd3, half, add(odd1, bias)));
  y[2] = fmadd(even2, four, fmadd(even3, quarter, add(even1, bias)));
  y[3] = add(fmadd(odd2, eight, fmadd(odd3, eighth, add(odd1, bias))), load(m + 7 * step));
}

}  // namespace
}  // namespace fastsr
