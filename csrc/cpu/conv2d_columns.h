// SPDX-License-Identifier: Apache-2.0
// conv2d by Winograd down the columns, with 8 points: F(4, 5) for large kernels, F(6, 3) for 3 x 3 of many channels. Four
// rows of output take 8 products a column of five taps instead of 20, six rows 8 a column of three instead of 18; the
// transform of the input maps is shared by all output channels.
//
//     y = A' (G w * B' x),  A'[j][p] = p^j,  G[p][t] = p^t / prod_{q != p} (p - q),  p in {0, +-1, +-2, +-1/2, inf}
//
// Kernels of more than five rows are sums of such columns. Blocks of rows lie at absolute multiples of their height plus
// spec.blocks.y, so that a pixel is computed alike in every tile.
#pragma once

#include "core/kernel.h"
#include "cpu/conv2d_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

constexpr int kPoints = 8;
constexpr double kPoint[kPoints - 1] = {0, 1, -1, 2, -2, 0.5, -0.5};
// Rows of B' are divided by these powers of two and rows of G multiplied: both stay near 1.
constexpr double kScale[kPoints] = {1, 4, 4, 4, 4, 4, 4, 4};

// Few input channels of 3 x 3 leave too few products to pay for the output transform.
FASTSR_INLINE bool by_columns(const Spec& spec) {
  return spec.channels_out >= 8 &&
         (conv2d_of(spec).kernel >= 5 || (conv2d_of(spec).kernel == 3 && spec.channels_in >= 8));
}

// Offsets in floats from the start of the packed weights: the input transform, then the kernel's.
struct Columns {
  int64_t k, taps, rows;               // of a column; of a block
  int64_t parts, terms, group_floats;  // parts: columns of a kernel; terms: products summed per point

  explicit Columns(const Spec& spec) {
    k = conv2d_of(spec).kernel;
    taps = k == 3 ? 3 : 5;
    rows = kPoints + 1 - taps;
    parts = (k + taps - 1) / taps;
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

// One column of n taps (w[0], w[stride], ...) at point p; `whole` when it is as long as the columns of this kernel are.
double kernel_at(int p, const float* w, int64_t stride, int64_t n, bool whole) {
  if (p == kPoints - 1) return whole ? kScale[p] * static_cast<double>(w[(n - 1) * stride]) : 0.0;
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
            const int64_t first = part * z.taps, n = min(z.taps, z.k - first);
            const int64_t term = (part * spec.channels_in + ci) * z.k + kx;
            to[(c / group * z.group_floats + p * z.terms + term) * group + c % group] = static_cast<float>(
                kernel_at(p, w + (c * spec.channels_in + ci) * z.k * z.k + first * z.k + kx, z.k, n, n == z.taps));
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

// Transforms the rows that the block of output rows from y reads.
void transform_input(const Args& a, const ColumnsRoom& room, const float* transform, int64_t y, float* to) {
  const Columns z(*a.spec);
  for (int64_t part = 0; part < z.parts; ++part) {
    // A shorter column does not depend on the last rows, which may not exist: zeros do as well.
    const int rows = static_cast<int>(z.rows - 1 + min(z.taps, z.k - part * z.taps));
    for (int64_t ci = 0; ci < a.spec->channels_in; ++ci, to += kPoints * room.line) {
      const Channel from = channel_of(a, ci);
      const View& in = *from.view;
      const float* top = at(in, from.c, y - z.k / 2 + part * z.taps, in.rect.x0);
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

// M rows of one channel and vector from its products: points come in pairs p, -p, which share even and odd powers.
template <int M>
FASTSR_INLINE void output_transform(const float* m, int64_t step, vf bias, vf* y) {
  const vf plus1 = load(m + step), minus1 = load(m + 2 * step), plus2 = load(m + 3 * step), minus2 = load(m + 4 * step);
  const vf plus3 = load(m + 5 * step), minus3 = load(m + 6 * step);
  // [parity]: sums for even powers, differences for odd ones.
  const vf one[2] = {add(plus1, minus1), sub(plus1, minus1)};
  const vf two[2] = {add(plus2, minus2), sub(plus2, minus2)};
  const vf half[2] = {add(plus3, minus3), sub(plus3, minus3)};
  y[0] = add(add(load(m), bias), add(one[0], add(two[0], half[0])));
  float power = 1;
  FASTSR_UNROLL
  for (int j = 1; j < M; ++j) {
    power *= 2;
    y[j] = fmadd(two[j % 2], set1(power), fmadd(half[j % 2], set1(1 / power), add(one[j % 2], bias)));
  }
  y[M - 1] = add(y[M - 1], load(m + 7 * step));
}

// kGroup output channels, V vectors from x of the block of M rows from y.
template <int M, int V>
FASTSR_INLINE void unit(const Args& a, const Columns& z, int64_t line, const float* w, const float* bias,
                        const float* transformed, float* products, int64_t c, int64_t y, int64_t x, int64_t n) {
  multiply<kGroup, V>(*a.spec, z, line, w, transformed, products);
  const Rect& r = a.out.rect;
  for (int g = 0; g < min(kGroup, a.spec->channels_out - c); ++g) {
    vf row[V][M];
    FASTSR_UNROLL
    for (int v = 0; v < V; ++v)
      output_transform<M>(products + (g * V + v) * kLanes, kGroup * V * kLanes, set1(bias[g]), row[v]);
    FASTSR_UNROLL
    for (int i = 0; i < M; ++i) {
      if (y + i < r.y0 || y + i >= r.y1) continue;
      vf sum[1][V];
      FASTSR_UNROLL
      for (int v = 0; v < V; ++v) sum[0][v] = row[v][i];
      finish<kChannelsFrom>(a, c + g, sum, at(a.out, c + g, y + i, x), 0, residual_at(a, c + g, y + i, x), 0, 1, n);
    }
  }
}

template <int M>
void columns(const Args& a) {
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const Columns z(*a.spec);
  const ColumnsRoom room(*a.spec, a.out.rect, kGroup, kWide);
  float* transformed = static_cast<float*>(a.scratch);
  const Rect& r = a.out.rect;
  for (int64_t y = block_start(r.y0, M, a.spec->blocks.y); y < r.y1; y += M) {
    transform_input(a, room, base + head->weights, y, transformed);
    for (int64_t c = 0; c < a.spec->channels_out; c += kGroup) {
      const float* w = base + head->weights + Columns::kTransform + c * z.group_floats;
      const float* bias = base + head->bias + c;
      float* products = static_cast<float*>(a.scratch) + room.products;
      for (int64_t x = r.x0; x < r.x1; x += kWide * kLanes) {
        const int64_t n = r.x1 - x;
        const float* from = transformed + (x - r.x0);
        if (n > 2 * kLanes && kWide > 2) {
          unit<M, kWide>(a, z, room.line, w, bias, from, products, c, y, x, n);
        } else if (n > kLanes) {
          unit<M, 2>(a, z, room.line, w, bias, from, products, c, y, x, n);
        } else {
          unit<M, 1>(a, z, room.line, w, bias, from, products, c, y, x, n);
        }
      }
    }
  }
}

}  // namespace
}  // namespace fastsr
