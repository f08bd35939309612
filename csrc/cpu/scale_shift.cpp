// SPDX-License-Identifier: Apache-2.0
// scale_shift   out[c] = scale[c] x[c] + shift[c]
// shapes        x, out [C, H, W]  scale, shift [C]   f32
// cost          reads and writes CHW
#include "core/kernel.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

size_t packed_bytes(const Spec& spec) { return static_cast<size_t>(2 * spec.channels_in) * sizeof(float); }

void pack(const Spec& spec, void* packed) {
  float* to = static_cast<float*>(packed);
  for (int64_t c = 0; c < spec.channels_in; ++c) {
    to[2 * c] = spec.weights[0].data ? spec.weights[0].data[c] : 1.0f;
    to[2 * c + 1] = spec.weights[1].data[c];
  }
}

size_t scratch_bytes(const Spec&, const Rect&, const Rect&) { return 0; }

int64_t work(const Spec& spec, const Rect& out) {
  return 4 * spec.channels_in * height(out) * round_up(width(out), kLanes);
}

void run(const Args& a) {
  const float* w = static_cast<const float*>(a.packed);
  const Rect& r = a.out.rect;
  for (int64_t c = 0; c < a.spec->channels_in; ++c) {
    const vf scale = set1(w[2 * c]), shift = set1(w[2 * c + 1]);
    for (int64_t y = r.y0; y < r.y1; ++y) {
      const float* from = at(a.in[0], c, y, r.x0);
      float* to = at(a.out, c, y, r.x0);
      for (int64_t x = 0; x < width(r); x += kLanes)
        store_masked(to + x, fmadd(load(from + x), scale, shift), first(width(r) - x));
    }
  }
}

}  // namespace
}  // namespace fastsr

FASTSR_KERNEL(scale_shift) = {"scale_shift", FASTSR_STRING(FASTSR_ISA), fastsr::packed_bytes,
                              fastsr::pack,  fastsr::scratch_bytes,     fastsr::run,
                              fastsr::work};
