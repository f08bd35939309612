// SPDX-License-Identifier: Apache-2.0
// upsample_residual   out[s y + i, s x + j] = x[y, x] + w[:, :, i, j]' act(x[y, x]) + b              paper 002, section 3.2
#include "ops/upsample_residual.h"

#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights& weights, const std::vector<int64_t>& channels) {
  only(step, {"scale", "activation", "slope"}, {"w", "b"});
  if (channels.size() != 1) fail(Status::kBadModel, "upsample_residual: takes one input");
  Spec spec{};
  UpsampleResidual& up = upsample_of(spec);
  spec.inputs = 1;
  up.scale = int_param(step, "scale", 2, 4);
  spec.channels_in = spec.channels_out = channels[0];
  const TensorRef w = spec.weights[0] = weight(step, weights, "w", 4);
  const TensorRef b = spec.weights[1] = optional_weight(step, weights, "b", 1);
  if (w.shape[0] != channels[0] || w.shape[1] != channels[0] || w.shape[2] != up.scale || w.shape[3] != up.scale)
    fail(Status::kBadModel, "upsample_residual: w has shape [", w.shape[0], ", ", w.shape[1], ", ", w.shape[2], ", ",
         w.shape[3], "], expected [", channels[0], ", ", channels[0], ", ", up.scale, ", ", up.scale, "]");
  if (b.rank && b.shape[0] != channels[0])
    fail(Status::kBadModel, "upsample_residual: b has ", b.shape[0], " entries, expected ", channels[0]);
  up.activation = step.params.count("activation") ? activation_param(step, "activation") : Activation::kRelu;
  up.slope = float_param(step, "slope", 0.0f);
  return spec;
}

int64_t upscale(const Spec& spec) { return upsample_of(spec).scale; }

Reading reads(const Spec&, int) { return kSamePlace; }

Rect needs(const Spec& spec, int, const Rect& out) {
  const int64_t s = upsample_of(spec).scale;
  return {floor_div(out.y0, s), floor_div(out.x0, s), ceil_div(out.y1, s), ceil_div(out.x1, s)};
}

int64_t granule(const Spec&) { return 1; }

int64_t flops(const Spec& spec, const Rect& out) {
  return 2 * spec.channels_in * spec.channels_out * height(out) * width(out);
}

}  // namespace

extern const Rule kRule_upsample_residual;
const Rule kRule_upsample_residual = {"upsample_residual", nullptr, parse, upscale, reads, needs, granule, flops};

}  // namespace fastsr
