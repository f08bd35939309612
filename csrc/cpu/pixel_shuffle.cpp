// SPDX-License-Identifier: Apache-2.0
// pixel_shuffle   out[c, s y + i, s x + j] = x[c s^2 + i s + j, y, x]
// shapes          x [C s^2, h, w] -> out [C, h s, w s]   f32
// cost            reads and writes C h w s^2
#include "core/kernel.h"
#include "cpu/simd.h"
#include "ops/pixel_shuffle.h"

namespace fastsr {
namespace {

size_t packed_bytes(const Spec&) { return 0; }
void pack(const Spec&, void*) {}
size_t scratch_bytes(const Spec&, const Rect&, const Rect&) { return 0; }

int64_t work(const Spec& spec, const Rect& out) { return 16 * spec.channels_out * height(out) * width(out); }

void run(const Args& a) {
  const View& x = a.in[0];
  const Rect& r = a.out.rect;
  const int64_t s = shuffle_of(*a.spec).scale;
  for (int64_t c = 0; c < a.out.channels; ++c)
    for (int64_t y = r.y0; y < r.y1; ++y) {
      float* to = at(a.out, c, y, 0);
      for (int64_t j = 0; j < s; ++j) {
        const float* from = at(x, (c * s + y % s) * s + j, y / s, 0);
        for (int64_t k = (r.x0 - j + s - 1) / s; k * s + j < r.x1; ++k) to[k * s + j] = from[k];
      }
    }
}

}  // namespace
}  // namespace fastsr

FASTSR_KERNEL(pixel_shuffle) = {"pixel_shuffle", FASTSR_STRING(FASTSR_ISA), fastsr::packed_bytes,
                                fastsr::pack,    fastsr::scratch_bytes,     fastsr::run,
                                fastsr::work};
