// SPDX-License-Identifier: Apache-2.0
// scale_shift   out[c] = scale[c] x[c] + shift[c]
#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights& weights, const std::vector<int64_t>& channels) {
  only(step, {}, {"scale", "shift"});
  if (channels.size() != 1) fail(Status::kBadModel, "scale_shift: takes one input");
  Spec spec{};
  spec.inputs = 1;
  spec.channels_in = spec.channels_out = channels[0];
  spec.weights[0] = optional_weight(step, weights, "scale", 1);
  spec.weights[1] = weight(step, weights, "shift", 1);
  for (const TensorRef& w : {spec.weights[0], spec.weights[1]})
    if (w.rank && w.shape[0] != channels[0])
      fail(Status::kBadModel, "scale_shift: a weight has ", w.shape[0], " entries, expected ", channels[0]);
  return spec;
}

int64_t upscale(const Spec&) { return 1; }
Reading reads(const Spec&, int) { return kSamePlace; }
Rect needs(const Spec&, int, const Rect& out) { return out; }
int64_t granule(const Spec&) { return 1; }
int64_t flops(const Spec& spec, const Rect& out) { return 2 * spec.channels_in * height(out) * width(out); }

}  // namespace

extern const Rule kRule_scale_shift;
const Rule kRule_scale_shift = {"scale_shift", nullptr, parse, upscale, reads, needs, granule, flops};

}  // namespace fastsr
