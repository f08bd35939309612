// SPDX-License-Identifier: Apache-2.0
// conv2d    out = act(w * x + b) [+ residual]                                        DESIGN section 5; paper 000, Eq. 6-7
// shapes    x [Ci, H, W]  w [Co, Ci, k, k]  b [Co]  residual, out [Co, H, W]   f32, planar
// work      many outputs: kGroup output channels x up to kWide vectors of a row in registers, by products, by Winograd
//           down the columns (conv2d_columns.h) or in tiles (conv2d_tiles.h), whichever `work` estimates lowest; one to
//           three outputs: kRows rows x 2 vectors, so that a loaded vector feeds k rows of taps
// cost      2 Ci Co k^2 flops per pixel, with Winograd 0.4 or 0.25 of them; the order of a pixel's sum depends on its
//           absolute position only; measured in docs/performance.md
#include "core/kernel.h"
#include "cpu/conv2d_columns.h"
#include "cpu/conv2d_tiles.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

#if defined(FASTSR_AVX512)
constexpr int kGroup = 8, kWide = 3, kRows = 8;
#else
constexpr int kGroup = 4, kWide = 2, kRows = 4;
#endif
// Up to this many output channels each is computed alone: a group would be mostly padding.
constexpr int64_t kFew = 3;

enum class Way { kFew, kDirect, kPoints, kColumns, kTiles };

struct Packed {
  int64_t bias;     // offsets in floats from the start
  int64_t weights;  // few: [Co][Ci][k][k]; direct: [Co / kGroup][Ci][k][k][kGroup]; else see the Winograd files
};

int64_t header_floats() { return 16; }

// Multiply-adds, or what takes as long, of a rectangle done in one way.
int64_t work_of(const Spec& spec, Way way, int64_t h, int64_t w) {
  const int64_t ci = spec.channels_in, co = round_up(spec.channels_out, kGroup);
  if (way == Way::kTiles) {
    // Transforms: about 240 and 170 a tile and channel, measured. Weights come from L3 at about 4 multiply-adds a byte,
    // half of it while products are made.
    const Bands bands(spec, (h + Tiles::kSide - 1) / Tiles::kSide, (w + Tiles::kSide - 1) / Tiles::kSide);
    const int64_t tiles = bands.rows * bands.columns, in_band = bands.band_rows * bands.band_columns;
    const int64_t time = products_time(in_band) * tiles / max(1, in_band), count = (tiles + in_band - 1) / max(1, in_band);
    return Tiles::kPoints * ci * co * time + (240 * ci + 170 * co) * tiles + 2 * Tiles::kPoints * 4 * ci * co * count;
  }
  if (way == Way::kColumns) {  // products, the output transform, 64 operations a block for the input's
    const Columns z(spec);
    const int64_t blocks = (h + (spec.blocks.y ? 2 : 0) + z.rows - 1) / z.rows;
    const int64_t operations = co * (z.group_floats + 6 * z.rows + 4) + z.parts * ci * kPoints * kPoints;
    return operations * blocks * round_up(w, kLanes);
  }
  return (way == Way::kFew ? spec.channels_out : co) * ci * spec.kernel * spec.kernel * h * round_up(w, kLanes);
}

Way way_of(const Spec& placed) {
  Spec spec = placed;
  spec.blocks = Blocks{};  // the same before and after the session places them
  if (spec.channels_out <= kFew) return Way::kFew;
  if (spec.kernel == 1) return Way::kPoints;
  Way best = Way::kDirect;
  if (by_columns(spec)) best = Way::kColumns;
  constexpr int64_t kSide = 96;
  if (spec.kernel == 3 && spec.border == Border::kZero &&
      work_of(spec, Way::kTiles, kSide, kSide) < work_of(spec, best, kSide, kSide))
    best = Way::kTiles;
  return best;
}

const char* way(const Spec& spec) {
  switch (way_of(spec)) {
    case Way::kTiles:
      return "winograd4x4";
    case Way::kColumns:
      return spec.kernel == 3 ? "winograd6x1" : "winograd4x1";
    default:
      return "direct";
  }
}

// Whether the kernel applies the activation of its input as it reads it; else a copy is made.
bool activates(const Spec& spec) {
  return way_of(spec) == Way::kTiles || way_of(spec) == Way::kPoints;
}

size_t packed_bytes(const Spec& spec) {
  const int64_t co = round_up(spec.channels_out, kGroup);
  int64_t weights = co * spec.channels_in * spec.kernel * spec.kernel;
  if (way_of(spec) == Way::kColumns) weights = Columns::kTransform + co * Columns(spec).group_floats;
  if (way_of(spec) == Way::kTiles) weights = tiles_packed_floats(spec, kGroup);
  return static_cast<size_t>(header_floats() + round_up(co, 16) + weights) * sizeof(float);
}

void pack(const Spec& spec, void* packed) {
  float* base = static_cast<float*>(packed);
  const int64_t co = spec.channels_out, taps = spec.channels_in * spec.kernel * spec.kernel;
  const int64_t padded = round_up(co, kGroup);
  Packed* head = static_cast<Packed*>(packed);
  head->bias = header_floats();
  head->weights = head->bias + round_up(padded, 16);
  const float* w = spec.weights[0].data;
  const float* b = spec.weights[1].data;
  for (int64_t o = 0; o < padded; ++o) base[head->bias + o] = b && o < co ? b[o] : 0.0f;
  float* to = base + head->weights;
  switch (way_of(spec)) {
    case Way::kTiles:
      pack_tiles(spec, kGroup, to);
      break;
    case Way::kColumns:
      __builtin_memset(to, 0, packed_bytes(spec) - static_cast<size_t>(head->weights) * sizeof(float));
      pack_columns(spec, kGroup, to);
      break;
    case Way::kFew:
      for (int64_t i = 0; i < co * taps; ++i) to[i] = w[i];
      break;
    case Way::kPoints:
    case Way::kDirect:
      for (int64_t o = 0; o < padded; ++o)
        for (int64_t t = 0; t < taps; ++t)
          to[(o / kGroup * taps + t) * kGroup + o % kGroup] = o < co ? w[o * taps + t] : 0.0f;
  }
}

Blocks blocks(const Spec& spec) {
  Blocks b;
  if (way_of(spec) == Way::kColumns) b.rows = Columns(spec).rows;
  if (way_of(spec) == Way::kTiles) b.rows = b.columns = Tiles::kSide;
  return b;
}

bool streams(const Spec& spec) { return activates(spec); }

// Pixels of a panel: of all input channels, in L1 while every output channel is made.
constexpr int64_t kPanel = kWide * kLanes;

// A copy of the input with its activation, for kernels that read it more than once.
int64_t copy_floats(const Spec& spec, const Rect& out) {
  if (spec.input_activation == Activation::kNone || activates(spec)) return 0;
  const int64_t r = spec.kernel - 1 + 8;  // blocks may reach further
  return spec.channels_in * (height(out) + r) * round_up(width(out) + r, 16) + 8 * kLanes;
}

size_t scratch_bytes(const Spec& spec, const Rect& out) {
  int64_t floats = round_up(copy_floats(spec, out), 16);
  if (way_of(spec) == Way::kPoints) floats += spec.channels_in * round_up(width(out), kPanel);
  if (way_of(spec) == Way::kColumns) floats += ColumnsRoom(spec, out, kGroup, kWide).total;
  if (way_of(spec) == Way::kTiles) floats += tiles_scratch_floats(spec, out);
  return static_cast<size_t>(floats) * sizeof(float);
}

FASTSR_INLINE vf leaky(vf v, vf slope) { return select(greater(v, set1(0.0f)), v, mul(v, slope)); }

struct Same {
  __attribute__((always_inline)) vf operator()(vf v) const { return v; }
};
struct Relu {
  __attribute__((always_inline)) vf operator()(vf v) const { return max(v, set1(0.0f)); }
};
struct Leaky {
  vf slope;
  __attribute__((always_inline)) vf operator()(vf v) const { return leaky(v, slope); }
};

template <int N, int V>
FASTSR_INLINE void add_residual(vf (&sum)[N][V], const float* residual, int64_t step, int64_t lines, int64_t n) {
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v)
      if (i < lines && v * kLanes < n) sum[i][v] = add(sum[i][v], load(residual + i * step + v * kLanes));
}

// Ends N lines (rows or channels, `step` floats apart in the output) of V vectors, of which `lines` lines and n pixels
// exist: residual, activation, store. Loop bounds are constants and branches stand outside, so that the sums stay in
// registers.
template <int N, int V>
FASTSR_INLINE void finish(const Args& a, vf (&sum)[N][V], float* to, int64_t step, const float* residual,
                          int64_t residual_step, int64_t lines, int64_t n) {
  if (residual && a.spec->sum_inside) add_residual(sum, residual, residual_step, lines, n);
  if (a.spec->activation == Activation::kRelu) {
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] = max(sum[i][v], set1(0.0f));
  } else if (a.spec->activation == Activation::kLeakyRelu) {
    const vf slope = set1(a.spec->slope);
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] = leaky(sum[i][v], slope);
  }
  if (residual && !a.spec->sum_inside) add_residual(sum, residual, residual_step, lines, n);
  if (lines >= N && n >= V * kLanes) {
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < V; ++v) store(to + i * step + v * kLanes, sum[i][v]);
    return;
  }
  for (int i = 0; i < N; ++i)
    for (int v = 0; v < V; ++v)
      if (i < lines && v * kLanes < n) store_masked(to + i * step + v * kLanes, sum[i][v], first(n - v * kLanes));
}

FASTSR_INLINE const float* residual_at(const Args& a, int64_t c, int64_t y, int64_t x) {
  return a.spec->inputs == 2 ? at(a.in[1], c, y, x) : nullptr;
}

// kGroup output channels, V vectors of row y from x; n pixels of them exist.
template <int V>
FASTSR_INLINE void group(const Args& a, const float* w, const float* bias, int64_t c0, int64_t y, int64_t x,
                         int64_t n) {
  const View& in = a.in[0];
  const int64_t k = a.spec->kernel, r = k / 2;
  vf sum[kGroup][V];
  for (int g = 0; g < kGroup; ++g)
    for (int v = 0; v < V; ++v) sum[g][v] = set1(bias[g]);
  for (int64_t ci = 0; ci < a.spec->channels_in; ++ci) {
    for (int64_t ky = 0; ky < k; ++ky) {
      const float* row = at(in, ci, y - r + ky, x - r);
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
  finish(a, sum, at(a.out, c0, y, x), a.out.channel_stride, residual_at(a, c0, y, x),
         a.spec->inputs == 2 ? a.in[1].channel_stride : 0, a.spec->channels_out - c0, n);
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
  finish(a, sum, at(a.out, c0, y, x), a.out.channel_stride, residual_at(a, c0, y, x),
         a.spec->inputs == 2 ? a.in[1].channel_stride : 0, a.spec->channels_out - c0, n);
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
      const float* from = at(a.in[0], c, y, r.x0);
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
        for (const int64_t end = min(ci, ahead + share); ahead < end; ++ahead)
          for (int v = 0; v < kWide; ++v) __builtin_prefetch(at(a.in[0], ahead, y + 1, x + v * kLanes), 0, 2);
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
  const int64_t taps = a.spec->channels_in * a.spec->kernel * a.spec->kernel;
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
      finish(a, sum, at(a.out, c + g, y + i, x), 0, residual_at(a, c + g, y + i, x), 0, 1, n);
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
  for (int64_t y = first_block(*a.spec, M, r.y0); y < r.y1; y += M) {
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

// The output transform of a band's outputs [c0, c0 + count), channel by channel.
void finish_tiles(const Args& a, const Band& room, const float* bias, int64_t c0, int64_t count) {
  const Rect& rect = a.out.rect;
  const int64_t left = max(rect.x0, room.x), right = min(rect.x1, room.x + Tiles::kSide * room.columns);
  float* const scratch = static_cast<float*>(a.scratch);
  float* const lines = scratch + room.lines + 2 * Tiles::kEdge * room.wide;
  for (int64_t c = 0; c < count; ++c)
    for (int64_t r = 0; r < room.rows; ++r) {
      const float* from = scratch + room.made + c * room.line + r * room.columns;
      for (int64_t t = 0; t < room.columns; t += kLanes) {
        vf down[4][6];
        FASTSR_UNROLL
        for (int q = 0; q < 6; ++q) {
          vf m[6], y[4];
          FASTSR_UNROLL
          for (int p = 0; p < 6; ++p) m[p] = load(from + (p * 6 + q) * room.point_out + t);
          tile_out(m, y);
          FASTSR_UNROLL
          for (int i = 0; i < 4; ++i) down[i][q] = y[i];
        }
        FASTSR_UNROLL
        for (int i = 0; i < 4; ++i) {
          vf y[4];
          tile_out(down[i], y);
          interleave4(y, lines + i * room.wide + 4 * t);
        }
      }
      for (int i = 0; i < 4; ++i) {
        const int64_t y = room.y + 4 * r + i;
        if (y < rect.y0 || y >= rect.y1) continue;
        const float* line = lines + i * room.wide + (left - room.x);
        for (int64_t x = left; x < right; x += 4 * kLanes, line += 4 * kLanes) {
          vf sum[1][4];
          for (int v = 0; v < 4; ++v) sum[0][v] = add(load(line + v * kLanes), set1(bias[c0 + c]));
          finish(a, sum, at(a.out, c0 + c, y, x), 0, residual_at(a, c0 + c, y, x), 0, 1, right - x);
        }
      }
    }
}

template <typename Act>
void tiles(const Args& a, Act act) {
  const Packed* head = static_cast<const Packed*>(a.packed);
  const float* base = static_cast<const float*>(a.packed);
  const Rect& rect = a.out.rect;
  const int64_t s = Tiles::kSide, y0 = tile_start(rect.y0, a.spec->blocks.y), x0 = tile_start(rect.x0, a.spec->blocks.x);
  const Bands bands = Bands::of(*a.spec, rect);
  const int64_t chunk = chunk_channels(*a.spec);
  for (int64_t r = 0; r < bands.rows; r += bands.band_rows)
    for (int64_t t = 0; t < bands.columns; t += bands.band_columns) {
      Band band(*a.spec, min(bands.band_rows, bands.rows - r), min(bands.band_columns, bands.columns - t));
      band.y = y0 + s * r;
      band.x = x0 + s * t;
      transform_tiles(a, band, act);
      for (int64_t c = 0; c < a.spec->channels_out; c += chunk) {
        const int64_t count = min(chunk, a.spec->channels_out - c);
        multiply_tiles<kGroup, kWide>(a, band, base + head->weights, c, count);
        finish_tiles(a, band, base + head->bias, c, count);
      }
    }
}

// One output channel, R rows from y, V vectors from x. K > 0 is the kernel's side known at compile time.
template <int R, int V, int K>
FASTSR_INLINE void rows(const Args& a, const float* w, float bias, int64_t c, int64_t y, int64_t x, int64_t n) {
  const View& in = a.in[0];
  const int64_t k = K ? K : a.spec->kernel, r = k / 2;
  vf sum[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = set1(bias);
  for (int64_t ci = 0; ci < a.spec->channels_in; ++ci, w += k * k) {
    const float* top = at(in, ci, y - r, x - r);
    if (K) {
      vf weight[K ? K * K : 1];
      for (int t = 0; t < K * K; ++t) weight[t] = set1(w[t]);
      const float* from = top;
      const int64_t stride = in.row_stride, next = in.channel_stride;
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
              sum[i][v] = fmadd(load(top + (i + ky) * in.row_stride + kx + v * kLanes), weight, sum[i][v]);
        }
    }
  }
  finish(a, sum, at(a.out, c, y, x), a.out.row_stride, residual_at(a, c, y, x),
         a.spec->inputs == 2 ? a.in[1].row_stride : 0, R, n);
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
  const int64_t taps = a.spec->channels_in * a.spec->kernel * a.spec->kernel;
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

int64_t work(const Spec& spec, const Rect& out) { return work_of(spec, way_of(spec), height(out), width(out)); }

template <typename Act>
void run_way(const Args& a, Act act) {
  switch (way_of(*a.spec)) {
    case Way::kTiles:
      tiles(a, act);
      break;
    case Way::kColumns:
      Columns(*a.spec).rows == 4 ? columns<4>(a) : columns<6>(a);
      break;
    case Way::kPoints:
      points(a, act);
      break;
    case Way::kDirect:
      many(a);
      break;
    case Way::kFew:
      a.spec->kernel == 3 ? few<3>(a) : few<0>(a);
  }
}

// With the input's activation: as it is read, or from a copy at the scratch's beginning.
template <typename Act>
void run_active(const Args& a, Act act) {
  if (activates(*a.spec)) return run_way(a, act);
  const View& in = a.in[0];
  const int64_t h = height(in.rect), w = width(in.rect), stride = round_up(w, 16);
  float* copy = static_cast<float*>(a.scratch);
  for (int64_t c = 0; c < a.spec->channels_in; ++c)
    for (int64_t y = 0; y < h; ++y) {
      const float* from = in.data + c * in.channel_stride + y * in.row_stride;
      for (int64_t x = 0; x < w; x += kLanes) store(copy + (c * h + y) * stride + x, act(load(from + x)));
    }
  View views[2] = {{copy, h * stride, stride, in.channels, in.rect}, {}};
  if (a.spec->inputs == 2) views[1] = a.in[1];
  Args args = a;
  args.in = views;
  args.scratch = copy + round_up(copy_floats(*a.spec, a.out.rect), 16);
  run_way(args, Same{});
}

void run(const Args& a) {
  switch (a.spec->input_activation) {
    case Activation::kNone:
      return run_way(a, Same{});
    case Activation::kRelu:
      return run_active(a, Relu{});
    case Activation::kLeakyRelu:
      return run_active(a, Leaky{set1(a.spec->slope)});
  }
}

}  // namespace
}  // namespace fastsr

FASTSR_KERNEL(conv2d) = {"conv2d",
                         FASTSR_STRING(FASTSR_ISA),
                         fastsr::packed_bytes,
                         fastsr::pack,
                         fastsr::scratch_bytes,
                         fastsr::run,
                         fastsr::work,
                         fastsr::blocks,
                         fastsr::streams,
                         fastsr::way};
