// SPDX-License-Identifier: Apache-2.0
// upsample_residual   out[s y + i, s x + j] = x[y, x] + w[:, :, i, j]' act(x[y, x]) + b              paper 002, section 3.2
#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights& weights, const std::vector<int64_t>& channels) {
  only(step, {"scale", "activation", "slope"}, {"w", "b"});
  if (channels.size() != 1) fail(Status::kBadModel, "upsample_residual: takes one input");
  Spec spec{};
  spec.inputs = 1;
  spec.scale = int_param(step, "scale", 2, 4);
  spec.channels_in = spec.channels_out = channels[0];
  const TensorRef w = spec.weights[0] = weight(step, weights, "w", 4);
  const TensorRef b = spec.weights[1] = optional_weight(step, weights, "b", 1);
  if (w.shape[0] != channels[0] || w.shape[1] != channels[0] || w.shape[2] != spec.scale || w.shape[3] != spec.scale)
    fail(Status::kBadModel, "upsample_residual: w has shape [", w.shape[0], ", ", w.shape[1], ", ", w.shape[2], ", ",
         w.shape[3], "], expected [", channels[0], ", ", channels[0], ", ", spec.scale, ", ", spec.scale, "]");
  if (b.data && b.shape[0] != channels[0])
    fail(Status::kBadModel, "upsample_residual: b has ", b.shape[0], " entries, expected ", channels[0]);
  spec.input_activation = step.params.count("activation") ? activation_param(step, "activation") : Activation::kRelu;
  spec.slope = static_cast<float>(float_param(step, "slope", 0.0));
  return spec;
}

int64_t upscale(const Spec& spec) { return spec.scale; }

Rect needs(const Spec& spec, int, const Rect& out) {
  const int64_t s = spec.scale;
  return {floor_div(out.y0, s), floor_div(out.x0, s), ceil_div(out.y1, s), ceil_div(out.x1, s)};
}

int64_t granule(const Spec&) { return 1; }

int64_t flops(const Spec& spec, const Rect& out) {
  return 2 * spec.channels_in * spec.channels_out * height(out) * width(out);
}

}  // namespace

extern const Rule kRule_upsample_residual;
const Rule kRule_upsample_residual = {"upsample_residual", nullptr, parse, upscale, needs, granule, flops};

}  // namespace fastsr
