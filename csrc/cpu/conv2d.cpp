// SPDX-License-Identifier: Apache-2.0
// conv2d    out = act(w * x + b) [+ residual]                                                    paper 000, Eq. 6-7
// shapes    x [Ci, H, W], in one part or several  w [Co, Ci, k, k]  b [Co]  residual, out [Co, H, W]   f32, planar
// work      many outputs: kGroup output channels x up to kWide vectors of a row in registers, by products, by Winograd
//           down the columns (conv2d_columns.h) or in tiles of 4 x 4 or 6 x 6 (conv2d_tiles.h), whichever `work` says;
//           one to three outputs: kRows rows x 2 vectors, so that a loaded vector feeds k rows of taps
// cost      2 Ci Co k^2 flops per pixel, with Winograd 0.4, 0.25 or 0.2 of them; the order of a pixel's sum depends on its
//           absolute position only; measured in docs/performance.md
#include "core/kernel.h"
#include "cpu/conv2d_bf16.h"
#include "cpu/conv2d_columns.h"
#include "cpu/conv2d_direct.h"
#include "cpu/conv2d_parts.h"
#include "cpu/conv2d_tiles.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

// Up to this many output channels each is computed alone: a group would be mostly padding.
constexpr int64_t kFew = 3;

// How much faster products of bfloat16 are, about.
#if defined(FASTSR_ISA_AMX)
constexpr int64_t kFaster = 5, kFasterTaps = 13;
#else
constexpr int64_t kFaster = 2, kFasterTaps = 2;
#endif

enum class Variant { kFew, kDirect, kPoints, kTaps, kColumns, kTiles, kTiles6 };

// An exponential takes about as long as so many multiply-adds.
constexpr int64_t kCurve = 24;

template <int S>
int64_t tiles_work(const Spec& spec, int64_t h, int64_t w) {
  // Transforms: a tile and channel, measured on Zen 4, where a multiply-add takes twice as long as on CPUs with two units
  // of 512 bits (in bfloat16: there). Weights come from L3 at about 4 multiply-adds a byte, half of it while products are
  // made. A row of a channel: rows that follow each other, as those of the whole width do, come and go faster.
  const int64_t in = spec.bf16 ? 240 : S == 4 ? 550 : 740, out = spec.bf16 ? 170 : S == 4 ? 390 : 800;
  const int64_t row = spec.bf16 ? 0 : 2000;
  const int64_t ci = spec.channels_in, co = round_up(spec.channels_out, kGroup);
  const Bands<S> bands(spec, (h + S - 1) / S, (w + S - 1) / S);
  const int64_t tiles = bands.rows * bands.columns, in_band = bands.band_rows * bands.band_columns;
  const int64_t time = products_time(in_band) * tiles / max(1, in_band),
                count = (tiles + in_band - 1) / max(1, in_band);
  // Transforms work on vectors of tiles of one row.
  const int64_t lanes =
      spec.bf16 ? tiles
                : bands.rows * bands.columns * round_up(bands.band_columns, kLanes) / max(1, bands.band_columns);
  const int64_t products = Tiles<S>::kPoints * ci * co * time / (spec.bf16 ? kFaster : 1);
  return products + (in * ci + out * co) * lanes + row * (ci + co) * h + Tiles<S>::kPoints * 4 * ci * co * count;
}

// Multiply-adds, or what takes as long, of a rectangle by one algorithm, but for an exponential's.
int64_t work_of(const Spec& spec, Variant variant, int64_t h, int64_t w) {
  const int64_t ci = spec.channels_in, co = round_up(spec.channels_out, kGroup);
  if (variant == Variant::kTiles) return tiles_work<4>(spec, h, w);
  if (variant == Variant::kTiles6) return tiles_work<6>(spec, h, w);
  if (variant == Variant::kColumns) {  // products, the output transform, 64 operations a block for the input's
    const Columns z(spec);
    const int64_t blocks = (h + (spec.blocks.y ? 2 : 0) + z.rows - 1) / z.rows;
    const int64_t operations = co * (z.group_floats + 6 * z.rows + 4) + z.parts * ci * kPoints * kPoints;
    return operations * blocks * round_up(w, kLanes);
  }
  if (variant == Variant::kTaps)
    return (co * ci * conv2d_of(spec).kernel * conv2d_of(spec).kernel / kFasterTaps + 4 * (ci + co)) * h *
           round_up(w, kLanes);
  if (variant == Variant::kPoints && spec.bf16) return (co * ci / kFaster + 16 * (ci + co)) * h * round_up(w, kLanes);
  return (variant == Variant::kFew ? spec.channels_out : co) * ci * conv2d_of(spec).kernel * conv2d_of(spec).kernel *
         h * round_up(w, kLanes);
}

Variant variant_of(const Spec& placed) {
  Spec spec = placed;
  spec.blocks = Blocks{};  // the same before and after the session places them
  if (conv2d_of(spec).kernel == 1 && (spec.channels_out > kFew || spec.bf16)) return Variant::kPoints;
  if (spec.channels_out <= kFew) return Variant::kFew;
  // The algorithm with the least work among those there are, or the one that was asked for.
  Variant best = spec.bf16 && conv2d_of(spec).border == Border::kZero && spec.channels_in >= 16 ? Variant::kTaps
                                                                                                : Variant::kDirect;
  const auto consider = [&](Variant variant, Algorithm choice) {
    constexpr int64_t kSide = 96;
    if (spec.algorithm == choice || (spec.algorithm == Algorithm::kFastest &&
                                     work_of(spec, variant, kSide, kSide) < work_of(spec, best, kSide, kSide)))
      best = variant;
  };
  if (by_columns(spec)) consider(Variant::kColumns, Algorithm::kColumns);
  if (conv2d_of(spec).kernel == 3 && conv2d_of(spec).border == Border::kZero)
    consider(Variant::kTiles, Algorithm::kTiles);
  if (conv2d_of(spec).kernel == 3 && conv2d_of(spec).border == Border::kZero && !spec.bf16)
    consider(Variant::kTiles6, Algorithm::kTiles6);
  return best;
}

// Those of many channels; the others are not worth it.
bool bf16(const Spec& given) {
  Spec spec = given;
  spec.bf16 = true;
  const Variant variant = variant_of(spec);
  return spec.channels_in >= 16 &&
         (variant == Variant::kTiles || variant == Variant::kTaps || variant == Variant::kPoints);
}

bool pairs(const Spec& spec) { return spec.bf16; }

int64_t packing(const Spec& spec) {
  uint32_t slope = 0;  // it is packed
  if (!conv2d_of(spec).slopes) __builtin_memcpy(&slope, &conv2d_of(spec).slope, sizeof slope);
  return (static_cast<int64_t>(slope) << 8) + 2 * static_cast<int64_t>(variant_of(spec)) + (spec.bf16 ? 1 : 0);
}

const char* algorithm(const Spec& spec) {
  switch (variant_of(spec)) {
    case Variant::kTiles:
      return spec.bf16 ? "winograd4x4 bf16" : "winograd4x4";
    case Variant::kTiles6:
      return "winograd6x6";
    case Variant::kTaps:
      return "direct bf16";
    case Variant::kPoints:
      return spec.bf16 ? "direct bf16" : "direct";
    case Variant::kColumns:
      return conv2d_of(spec).kernel == 3 ? "winograd6x1" : "winograd4x1";
    default:
      return "direct";
  }
}

// Whether the kernel applies the activation of its input as it reads it; else a copy is made.
bool activates(const Spec& spec) {
  const Variant variant = variant_of(spec);
  return variant == Variant::kTiles || variant == Variant::kTiles6 || variant == Variant::kPoints ||
         variant == Variant::kTaps;
}

size_t packed_bytes(const Spec& spec) {
  const int64_t co = round_up(spec.channels_out, kGroup);
  int64_t weights = co * spec.channels_in * conv2d_of(spec).kernel * conv2d_of(spec).kernel;
  if (variant_of(spec) == Variant::kColumns) weights = Columns::kTransform + co * Columns(spec).group_floats;
  if (variant_of(spec) == Variant::kTiles) weights = tiles_packed_floats<4>(spec, kGroup);
  if (variant_of(spec) == Variant::kTiles6) weights = tiles_packed_floats<6>(spec, kGroup);
  if (variant_of(spec) == Variant::kPoints && spec.bf16) weights = matrix_floats(co, spec.channels_in);
  if (variant_of(spec) == Variant::kTaps)
    weights = matrix_floats(co, conv2d_of(spec).kernel * conv2d_of(spec).kernel * round_up(spec.channels_in, kInputs));
  return static_cast<size_t>(header_floats() + 2 * round_up(co, 16) + weights) * sizeof(float);
}

void pack(const Spec& spec, void* packed) {
  float* base = static_cast<float*>(packed);
  const int64_t co = spec.channels_out, taps = spec.channels_in * conv2d_of(spec).kernel * conv2d_of(spec).kernel;
  const int64_t padded = round_up(co, kGroup);
  Packed* head = static_cast<Packed*>(packed);
  head->bias = header_floats();
  head->slopes = head->bias + round_up(padded, 16);
  head->weights = head->slopes + round_up(padded, 16);
  const float* w = spec.weights[0].data;
  const float* b = spec.weights[1].data;
  const float* slopes = spec.weights[2].data;
  for (int64_t o = 0; o < padded; ++o) {
    base[head->bias + o] = b && o < co ? b[o] : 0.0f;
    base[head->slopes + o] = o >= co ? 0.0f : slopes ? slopes[o] : conv2d_of(spec).slope;
  }
  float* to = base + head->weights;
  switch (variant_of(spec)) {
    case Variant::kTiles:
      pack_tiles<4>(spec, kGroup, to);
      break;
    case Variant::kTiles6:
      pack_tiles<6>(spec, kGroup, to);
      break;
    case Variant::kColumns:
      __builtin_memset(to, 0, packed_bytes(spec) - static_cast<size_t>(head->weights) * sizeof(float));
      pack_columns(spec, kGroup, to);
      break;
    case Variant::kFew:
      for (int64_t i = 0; i < co * taps; ++i) to[i] = w[i];
      break;
    case Variant::kPoints:
    case Variant::kTaps:
#if defined(FASTSR_BF16)
      if (spec.bf16) {
        pack_matrix(w, co, spec.channels_in, conv2d_of(spec).kernel * conv2d_of(spec).kernel, to);
        break;
      }
#endif
      [[fallthrough]];
    case Variant::kDirect:
      for (int64_t o = 0; o < padded; ++o)
        for (int64_t t = 0; t < taps; ++t)
          to[(o / kGroup * taps + t) * kGroup + o % kGroup] = o < co ? w[o * taps + t] : 0.0f;
  }
}

Blocks blocks(const Spec& spec) {
  Blocks b;
  if (variant_of(spec) == Variant::kColumns) b.rows = Columns(spec).rows;
  if (variant_of(spec) == Variant::kTiles) b.rows = b.columns = 4;
  if (variant_of(spec) == Variant::kTiles6) b.rows = b.columns = 6;
  return b;
}

bool streams(const Spec& spec) { return activates(spec); }

// A copy of the input with its activation, for kernels that read it more than once.
int64_t copy_floats(const Spec& spec, const Rect& in) {
  if (conv2d_of(spec).input_activation == Activation::kNone || activates(spec)) return 0;
  return round_up(spec.channels_in * height(in) * round_up(width(in), 16) + 8 * kLanes,
                  16);  // rows are read past their end
}

size_t scratch_bytes(const Spec& spec, const Rect& in, const Rect& out) {
  int64_t floats = copy_floats(spec, in);
  if (variant_of(spec) == Variant::kPoints)
    floats += spec.bf16 ? points_bf16_floats(spec, out) : spec.channels_in * round_up(width(out), kPanel);
  if (variant_of(spec) == Variant::kTaps) floats += taps_bf16_floats(spec, out);
  if (variant_of(spec) == Variant::kColumns) floats += ColumnsRoom(spec, out, kGroup, kWide).total;
  if (variant_of(spec) == Variant::kTiles) floats += tiles_scratch_floats<4>(spec, out);
  if (variant_of(spec) == Variant::kTiles6) floats += tiles_scratch_floats<6>(spec, out);
  return static_cast<size_t>(floats) * sizeof(float);
}

int64_t work(const Spec& spec, const Rect& out) {
  const int64_t curves = curved(conv2d_of(spec)) ? kCurve * spec.channels_out * height(out) * width(out) : 0;
  return work_of(spec, variant_of(spec), height(out), width(out)) + curves;
}

template <typename Act>
void run_variant(const Args& a, Act act) {
  switch (variant_of(*a.spec)) {
    case Variant::kTiles:
      tiles<4>(a, act);
      break;
    case Variant::kTiles6:
      tiles<6>(a, act);
      break;
    case Variant::kColumns:
      Columns(*a.spec).rows == 4 ? columns<4>(a) : columns<6>(a);
      break;
    case Variant::kTaps:
#if defined(FASTSR_BF16)
      taps_bf16(a, act);
#endif
      break;
    case Variant::kPoints:
#if defined(FASTSR_BF16)
      if (a.spec->bf16) {
        points_bf16(a, act);
        break;
      }
#endif
      points(a, act);
      break;
    case Variant::kDirect:
      many(a);
      break;
    case Variant::kFew:
      conv2d_of(*a.spec).kernel == 3 ? few<3>(a) : few<0>(a);
  }
  if (a.large) fence_past();
}

// With the input's activation: as it is read, or from a copy at the scratch's beginning.
template <typename Act>
void run_active(const Args& a, Act act) {
  if (activates(*a.spec)) return run_variant(a, act);
  const View& in = a.in[0];
  const int64_t h = height(in.rect), w = width(in.rect), stride = round_up(w, 16);
  float* copy = static_cast<float*>(a.scratch);
  for (int64_t c = 0; c < a.spec->channels_in; ++c)
    for (int64_t y = 0; y < h; ++y) {
      const float* from = input_at(a, c, in.rect.y0 + y, in.rect.x0);
      for (int64_t x = 0; x < w; x += kLanes) store(copy + (c * h + y) * stride + x, act(load(from + x)));
    }
  View views[kMaxInputs + 1] = {{copy, h * stride, stride, a.spec->channels_in, in.rect}};  // of all that are joined
  if (const View* residual = residual_of(a)) views[a.spec->joined] = *residual;
  Args args = a;
  args.in = views;
  args.scratch = copy + copy_floats(*a.spec, in.rect);
  run_variant(args, Same{});
}

void run_all(const Args& a) {
  switch (conv2d_of(*a.spec).input_activation) {
    case Activation::kNone:
      return run_variant(a, Same{});
    case Activation::kRelu:
      return run_active(a, Relu{});
    default:
      return run_active(a, Leaky{set1(conv2d_of(*a.spec).slope)});
  }
}

void run(const Args& a) {
  if (!curved(conv2d_of(*a.spec)) || a.spec->bf16) return run_all(a);
  Spec sums = *a.spec;
  conv2d_of(sums).activation = Activation::kNone;
  conv2d_of(sums).residual = 0;
  Args args = a;
  args.spec = &sums;
  args.large = false;  // they are read again
  run_all(args);
  curve_all(a);
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
                         fastsr::algorithm,
                         fastsr::bf16,
                         fastsr::pairs,
                         fastsr::packing};
