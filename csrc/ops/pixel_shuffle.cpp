// SPDX-License-Identifier: Apache-2.0
// pixel_shuffle   out[c, s y + i, s x + j] = x[c s^2 + i s + j, y, x]
#include "ops/pixel_shuffle.h"

#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights&, const std::vector<int64_t>& channels) {
  only(step, {"scale"}, {});
  if (channels.size() != 1) fail(Status::kBadModel, "pixel_shuffle: takes one input");
  Spec spec{};
  spec.inputs = 1;
  const int64_t s = shuffle_of(spec).scale = int_param(step, "scale", 1, 16);
  spec.channels_in = channels[0];
  spec.channels_out = channels[0] / (s * s);
  if (spec.channels_out * s * s != channels[0])
    fail(Status::kBadModel, "pixel_shuffle: ", channels[0], " channels are not a multiple of ", s * s);
  return spec;
}

int64_t upscale(const Spec& spec) { return shuffle_of(spec).scale; }

Reading reads(const Spec&, int) { return kSamePlace; }

Rect needs(const Spec& spec, int, const Rect& out) {
  const int64_t s = shuffle_of(spec).scale;
  return {floor_div(out.y0, s), floor_div(out.x0, s), ceil_div(out.y1, s), ceil_div(out.x1, s)};
}

int64_t granule(const Spec&) { return 1; }
int64_t flops(const Spec&, const Rect&) { return 0; }

}  // namespace

extern const Rule kRule_pixel_shuffle;
const Rule kRule_pixel_shuffle = {"pixel_shuffle", nullptr, parse, upscale, reads, needs, granule, flops};

}  // namespace fastsr
