// SPDX-License-Identifier: Apache-2.0
// resize_bicubic   out = MATLAB imresize(x, scale, "bicubic"), integer scale >= 1, symmetric border
#include "ops/resize_bicubic.h"

#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights&, const std::vector<int64_t>& channels) {
  only(step, {"scale"}, {});
  if (channels.size() != 1) fail(Status::kBadModel, "resize_bicubic: takes one input");
  Spec spec{};
  spec.inputs = 1;
  spec.channels_in = spec.channels_out = channels[0];
  resize_of(spec).scale = int_param(step, "scale", 1, 16);
  return spec;
}

int64_t upscale(const Spec& spec) { return resize_of(spec).scale; }

Reading reads(const Spec&, int) { return {Read::kWindow, Border::kSymmetric}; }

Rect needs(const Spec& spec, int, const Rect& out) {
  const int64_t s = resize_of(spec).scale;
  return {floor_div(out.y0, s) - 2, floor_div(out.x0, s) - 2, ceil_div(out.y1, s) + 2, ceil_div(out.x1, s) + 2};
}

int64_t granule(const Spec&) { return 1; }

int64_t flops(const Spec& spec, const Rect& out) {
  return 2 * 4 * spec.channels_out *
         (height(out) * width(out) + height(out) * ceil_div(width(out), resize_of(spec).scale));
}

}  // namespace

extern const Rule kRule_resize_bicubic;
const Rule kRule_resize_bicubic = {"resize_bicubic", nullptr, parse, upscale, reads, needs, granule, flops};

}  // namespace fastsr
