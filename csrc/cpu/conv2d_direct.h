// SPDX-License-Identifier: Apache-2.0
// conv2d by its own products: `many` for any size, `points` for 1 x 1, `few` for one to three outputs.
#pragma once

#include "core/kernel.h"
#include "cpu/conv2d_parts.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

// Pixels of a panel: of all input channels, in L1 while every output channel is made.
constexpr int64_t kPanel = kWide * kLanes;

// kGroup output channels, V vectors of row y from x; n pixels of them exist.
template <int V>
FASTSR_INLINE void group(const Args& a, const float* w, const float* bias, int64_t c0, int64_t y, int64_t x,
                         int64_t n) {
  const int64_t k = conv2d_of(*a.spec).kernel, r = k / 2;
  vf sum[kGroup][V];
  for (int g = 0; g < kGroup; ++g)
    for (int v = 0; v < V; ++v) sum[g][v] = set1(bias[g]);
  for (int64_t ci = 0; ci < a.spec->channels_in; ++ci) {
    const Channel in = channel_of(a, ci);
    for (int64_t ky = 0; ky < k; ++ky) {
      const float* row = at(*in.view, in.c, y - r + ky, x - r);
      for (int64_t kx = 0; kx < k; ++kx, w += kGroup) {
        vf p[V];
        for (int v = 0; v < V; ++v) p[v] = load(row + kx + v * kLanes);
        for (int g = 0; g < kGroup; ++g) {
          const vf weight = set1(w[g]);
          for (int v = 0; v < V; ++v) sum[g][v] = fmadd(p[v], weight, sum[g][v]);
        }
      }
    }
  }
  finish<kChannelsFrom>(a, c0, sum, at(a.out, c0, y, x), a.out.channel_stride, residual_at(a, c0, y, x),
                        residual_channel_stride(a), a.spec->channels_out - c0, n);
}

// kGroup output channels of V vectors of a panel.
template <int V>
FASTSR_INLINE void panel_group(const Args& a, const float* panel, const float* w, const float* bias, int64_t c0,
                               int64_t y, int64_t x, int64_t n) {
  vf sum[kGroup][V];
  FASTSR_UNROLL
  for (int g = 0; g < kGroup; ++g)
    for (int v = 0; v < V; ++v) sum[g][v] = set1(bias[g]);
  for (int64_t c = 0; c < a.spec->channels_in; ++c, w += kGroup, panel += kPanel) {
    vf p[V];
    FASTSR_UNROLL
    for (int v = 0; v < V; ++v) p[v] = load(panel + v * kLanes);
    FASTSR_UNROLL
    for (int g = 0; g < kGroup; ++g) {
      const vf weight = set1(w[g]);
      FASTSR_UNROLL
      for (int v = 0; v < V; ++v) sum[g][v] = fmadd(p[v], weight, sum[g][v]);
    }
  }
  finish<kChannelsFrom>(a, c0, sum, at(a.out, c0, y, x), a.out.channel_stride, residual_at(a, c0, y, x),
                        residual_channel_stride(a), a.spec->channels_out - c0, n);
}

// 1 x 1: a row of the input becomes panels [panel][Ci][kPanel], so that what is read again lies together.
template <typename Act>
void points(const Args& a, Act act) {
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const int64_t ci = a.spec->channels_in;
  float* const panels = static_cast<float*>(a.scratch);
  const Rect& r = a.out.rect;
  for (int64_t y = r.y0; y < r.y1; ++y) {
    for (int64_t c = 0; c < ci; ++c) {
      const float* from = input_at(a, c, y, r.x0);
      float* to = panels + c * kPanel;
      for (int64_t x = 0; x < width(r); x += kPanel, from += kPanel, to += ci * kPanel) {
        FASTSR_UNROLL
        for (int v = 0; v < kWide; ++v)
          if (x + v * kLanes < width(r)) store(to + v * kLanes, act(load(from + v * kLanes)));
      }
    }
    for (int64_t x = r.x0; x < r.x1; x += kPanel) {
      const float* panel = panels + (x - r.x0) * ci;
      const int64_t n = r.x1 - x;
      const int64_t share = (ci * kGroup + a.spec->channels_out - 1) / a.spec->channels_out;
      for (int64_t c = 0, ahead = 0; c < a.spec->channels_out; c += kGroup) {
        // The next row, meanwhile: its pieces are too short for the hardware to see them coming.
        for (const int64_t end = min(ci, ahead + share); ahead < end; ++ahead) {
          const float* next = input_at(a, ahead, y + 1, x);
          for (int v = 0; v < kWide; ++v) __builtin_prefetch(next + v * kLanes, 0, 2);
        }
        const float* w = base + head->weights + c * ci;
        const float* bias = base + head->bias + c;
        if (n > 2 * kLanes && kWide > 2) {
          panel_group<kWide>(a, panel, w, bias, c, y, x, n);
        } else if (n > kLanes) {
          panel_group<2>(a, panel, w, bias, c, y, x, n);
        } else {
          panel_group<1>(a, panel, w, bias, c, y, x, n);
        }
      }
    }
  }
}

void many(const Args& a) {
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const int64_t taps = a.spec->channels_in * conv2d_of(*a.spec).kernel * conv2d_of(*a.spec).kernel;
  const Rect& r = a.out.rect;
  for (int64_t y = r.y0; y < r.y1; ++y) {
    for (int64_t c = 0; c < a.spec->channels_out; c += kGroup) {
      const float* w = base + head->weights + c * taps;
      const float* bias = base + head->bias + c;
      for (int64_t x = r.x0; x < r.x1; x += kWide * kLanes) {
        const int64_t n = r.x1 - x;
        if (n > 2 * kLanes && kWide > 2) {
          group<kWide>(a, w, bias, c, y, x, n);
        } else if (n > kLanes) {
          group<2>(a, w, bias, c, y, x, n);
        } else {
          group<1>(a, w, bias, c, y, x, n);
        }
      }
    }
  }
}

// One output channel, R rows from y, V vectors from x. K > 0 is the kernel's side known at compile time.
template <int R, int V, int K>
FASTSR_INLINE void rows(const Args& a, const float* w, float bias, int64_t c, int64_t y, int64_t x, int64_t n) {
  const int64_t k = K ? K : conv2d_of(*a.spec).kernel, r = k / 2;
  vf sum[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = set1(bias);
  for (int64_t ci = 0; ci < a.spec->channels_in; ++ci, w += k * k) {
    const Channel in = channel_of(a, ci);
    const float* top = at(*in.view, in.c, y - r, x - r);
    if (K) {
      vf weight[K ? K * K : 1];
      for (int t = 0; t < K * K; ++t) weight[t] = set1(w[t]);
      const float* from = top;
      const int64_t stride = in.view->row_stride, next = in.view->channel_stride;
      FASTSR_UNROLL
      for (int line = 0; line < R + K - 1; ++line, from += stride) {
        FASTSR_OPAQUE(from);  // else every address is computed beforehand, kept on the stack and fetched from there
        // The next channel's rows: each is a stream of two or three cache lines, too short for the hardware to see.
        for (int v = 0; v <= V; ++v) __builtin_prefetch(from + next + v * kLanes);
        FASTSR_UNROLL
        for (int kx = 0; kx < K; ++kx) {
          FASTSR_UNROLL
          for (int v = 0; v < V; ++v) {
            const vf p = load(from + kx + v * kLanes);
            FASTSR_UNROLL
            for (int ky = 0; ky < K; ++ky)
              if (line - ky >= 0 && line - ky < R) sum[line - ky][v] = fmadd(p, weight[ky * K + kx], sum[line - ky][v]);
          }
        }
      }
    } else {
      for (int64_t ky = 0; ky < k; ++ky)
        for (int64_t kx = 0; kx < k; ++kx) {
          const vf weight = set1(w[ky * k + kx]);
          for (int i = 0; i < R; ++i)
            for (int v = 0; v < V; ++v)
              sum[i][v] = fmadd(load(top + (i + ky) * in.view->row_stride + kx + v * kLanes), weight, sum[i][v]);
        }
    }
  }
  const View* residual = residual_of(a);
  finish<kRowsOf>(a, c, sum, at(a.out, c, y, x), a.out.row_stride, residual_at(a, c, y, x),
                  residual ? residual->row_stride : 0, R, n);
}

// R rows from y, all of their pixels.
template <int R, int K>
FASTSR_INLINE void strip(const Args& a, const float* w, float bias, int64_t c, int64_t y) {
  const int64_t end = a.out.rect.x1;
  int64_t x = a.out.rect.x0;
  for (; x + kLanes < end; x += 2 * kLanes) rows<R, 2, K>(a, w, bias, c, y, x, end - x);
  if (x < end) rows<R, 1, K>(a, w, bias, c, y, x, end - x);
}

template <int K>
void few(const Args& a) {
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const int64_t taps = a.spec->channels_in * conv2d_of(*a.spec).kernel * conv2d_of(*a.spec).kernel;
  const int64_t end = a.out.rect.y1;
  for (int64_t c = 0; c < a.spec->channels_out; ++c) {
    const float* w = base + head->weights + c * taps;
    const float bias = base[head->bias + c];
    int64_t y = a.out.rect.y0;
    for (; y + kRows <= end; y += kRows) strip<kRows, K>(a, w, bias, c, y);
    if (y + 4 <= end) strip<4, K>(a, w, bias, c, y), y += 4;
    if (y + 2 <= end) strip<2, K>(a, w, bias, c, y), y += 2;
    if (y < end) strip<1, K>(a, w, bias, c, y);
  }
}

}  // namespace
}  // namespace fastsr
