// SPDX-License-Identifier: Apache-2.0
// resize_bicubic   out = MATLAB imresize(x, s, "bicubic"), a = -0.5
// shapes           x [C, h, w] -> out [C, h s, w s]   f32
// work             one output row: 4 LR rows are weighted into one, then each of the s phases of a row is a 4-tap
//                  filter of it, contiguous in lanes, and the phases are interleaved
// cost             reads hw, writes hw s^2; 2 * 4 (1 + 1/s) flops per output pixel
#include "core/kernel.h"
#include "cpu/simd.h"
#include "ops/resize_bicubic.h"

namespace fastsr {
namespace {

constexpr int kMaxScale = 16;

struct Phase {
  int64_t first;  // first LR tap relative to the LR pixel of the output pixel
  float weight[4];
};

double cubic(double x) {
  x = x < 0 ? -x : x;
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x <= 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

size_t packed_bytes(const Spec& spec) { return sizeof(Phase) * static_cast<size_t>(resize_of(spec).scale); }

void pack(const Spec& spec, void* packed) {
  Phase* phases = static_cast<Phase*>(packed);
  const int64_t s = resize_of(spec).scale;
  for (int64_t p = 0; p < s; ++p) {
    // Output pixel s j + p lies at LR coordinate j + (p + 1/2) / s - 1/2; 2p + 1 < s decides the floor exactly.
    const double u = (static_cast<double>(p) + 0.5) / static_cast<double>(s) - 0.5;
    phases[p].first = 2 * p + 1 < s ? -2 : -1;
    double w[4], sum = 0;
    for (int t = 0; t < 4; ++t) sum += w[t] = cubic(u - static_cast<double>(phases[p].first + t));
    for (int t = 0; t < 4; ++t) phases[p].weight[t] = static_cast<float>(w[t] / sum);
  }
}

FASTSR_INLINE int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// One LR row of the input rectangle, and one line per phase.
size_t scratch_bytes(const Spec& spec, const Rect&, const Rect& out) {
  const int64_t line = round_up(width(out) / resize_of(spec).scale + 8, kLanes) + 2 * kLanes;
  return static_cast<size_t>(line * (1 + resize_of(spec).scale)) * sizeof(float);
}

int64_t work(const Spec& spec, const Rect& out) {
  return 8 * spec.channels_out * height(out) * round_up(width(out), kLanes);
}

void run(const Args& args) {
  const Phase* phases = static_cast<const Phase*>(args.packed);
  const View& x = args.in[0];
  const View& out = args.out;
  const int64_t s = resize_of(*args.spec).scale;
  const int64_t j0 = floor_div(out.rect.x0, s), j1 = floor_div(out.rect.x1 - 1, s) + 1;
  const int64_t lr = j1 - j0 + 4, line = round_up(width(out.rect) / s + 8, kLanes) + 2 * kLanes;
  float* row = static_cast<float*>(args.scratch);  // LR pixels j0 - 2 .. j1 + 2
  float* made = row + line;                        // s lines
  for (int64_t c = 0; c < out.channels; ++c) {
    for (int64_t y = out.rect.y0; y < out.rect.y1; ++y) {
      const int64_t i = floor_div(y, s);
      const Phase& v = phases[y - i * s];
      const float* r0 = at(x, c, i + v.first, j0 - 2);
      for (int64_t k = 0; k < lr; k += kLanes) {
        vf sum = mul(load(r0 + k), set1(v.weight[0]));
        sum = fmadd(load(r0 + x.row_stride + k), set1(v.weight[1]), sum);
        sum = fmadd(load(r0 + 2 * x.row_stride + k), set1(v.weight[2]), sum);
        store(row + k, fmadd(load(r0 + 3 * x.row_stride + k), set1(v.weight[3]), sum));
      }
      for (int64_t p = 0; p < s; ++p) {
        const Phase& h = phases[p];
        const float* taps = row + 2 + h.first;
        for (int64_t k = 0; k < j1 - j0; k += kLanes) {
          vf sum = mul(load(taps + k), set1(h.weight[0]));
          sum = fmadd(load(taps + k + 1), set1(h.weight[1]), sum);
          sum = fmadd(load(taps + k + 2), set1(h.weight[2]), sum);
          store(made + p * line + k, fmadd(load(taps + k + 3), set1(h.weight[3]), sum));
        }
      }
      float* o = at(out, c, y, out.rect.x0);
      for (int64_t p = 0; p < s; ++p) {
        const int64_t begin = max(0, floor_div(out.rect.x0 - p + s - 1, s) - j0);
        for (int64_t j = begin; (j0 + j) * s + p < out.rect.x1; ++j)
          o[(j0 + j) * s + p - out.rect.x0] = made[p * line + j];
      }
    }
  }
}

}  // namespace
}  // namespace fastsr

FASTSR_KERNEL(resize_bicubic) = {"resize_bicubic", FASTSR_STRING(FASTSR_ISA), fastsr::packed_bytes,
                                 fastsr::pack,     fastsr::scratch_bytes,     fastsr::run,
                                 fastsr::work};
