// SPDX-License-Identifier: Apache-2.0
// conv2d   out = act(w * act_in(x) + b) + residual, or with sum_inside act(w * act_in(x) + b + residual); k x k, stride 1,
//          same size, border of (k-1)/2 pixels
#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights& weights, const std::vector<int64_t>& channels) {
  only(step, {"border", "input_activation", "activation", "sum_inside", "slope"}, {"w", "b"});
  if (channels.size() > 2) fail(Status::kBadModel, "conv2d: takes x and an optional residual");
  Spec spec{};
  spec.inputs = static_cast<int64_t>(channels.size());
  spec.channels_in = channels[0];
  const TensorRef w = weight(step, weights, "w", 4);
  spec.channels_out = w.shape[0];
  spec.kernel = w.shape[2];
  if (w.shape[1] != spec.channels_in || w.shape[2] != w.shape[3] || spec.kernel % 2 == 0 || spec.kernel > 31 ||
      spec.channels_out > 65536)
    fail(Status::kBadModel, "conv2d: w has shape [", w.shape[0], ", ", w.shape[1], ", ", w.shape[2], ", ", w.shape[3],
         "], expected [Co, ", spec.channels_in, ", k, k] with odd k <= 31");
  const TensorRef b = optional_weight(step, weights, "b", 1);
  if (b.data && b.shape[0] != spec.channels_out)
    fail(Status::kBadModel, "conv2d: b has ", b.shape[0], " entries, expected ", spec.channels_out);
  if (spec.inputs == 2 && channels[1] != spec.channels_out)
    fail(Status::kBadModel, "conv2d: the residual has ", channels[1], " channels, expected ", spec.channels_out);
  spec.weights[0] = w;
  spec.weights[1] = b;
  const std::string border = choice_param(step, "border", {"zero", "replicate", "symmetric"});
  spec.border = border == "zero" ? Border::kZero : border == "replicate" ? Border::kReplicate : Border::kSymmetric;
  spec.activation = activation_param(step, "activation");
  spec.input_activation = activation_param(step, "input_activation");
  spec.sum_inside = bool_param(step, "sum_inside");
  spec.slope = static_cast<float>(float_param(step, "slope", 0.0));
  return spec;
}

int64_t upscale(const Spec&) { return 1; }

Rect needs(const Spec& spec, int index, const Rect& out) {
  if (index == 1) return out;
  const int64_t r = spec.kernel / 2;
  const Blocks& b = spec.blocks;
  return {floor_div(out.y0 - b.y, b.rows) * b.rows + b.y - r, floor_div(out.x0 - b.x, b.columns) * b.columns + b.x - r,
          ceil_div(out.y1 - b.y, b.rows) * b.rows + b.y + r, ceil_div(out.x1 - b.x, b.columns) * b.columns + b.x + r};
}

int64_t granule(const Spec&) { return 1; }

int64_t flops(const Spec& spec, const Rect& out) {
  return 2 * spec.channels_in * spec.channels_out * spec.kernel * spec.kernel * height(out) * width(out);
}

}  // namespace

extern const Rule kRule_conv2d;
const Rule kRule_conv2d = {"conv2d", nullptr, parse, upscale, needs, granule, flops};

}  // namespace fastsr
