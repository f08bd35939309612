// SPDX-License-Identifier: Apache-2.0
// conv2d   t = w * act_in(x) + b, x being one input or several joined by channel; k x k, stride 1, same size, border of
//          (k-1)/2 pixels.  out = act(t) + residual, or with sum_inside act(t + residual), or with gate
//          (t + residual) (sigmoid(t) - 1/2)
#include "ops/conv2d.h"

#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights& weights, const std::vector<int64_t>& channels) {
  only(step, {"border", "input_activation", "activation", "sum_inside", "gate", "slope", "join"}, {"w", "b", "slopes"});
  Spec spec{};
  Conv2d& conv = conv2d_of(spec);
  spec.inputs = static_cast<int64_t>(channels.size());
  spec.joined = step.params.count("join") ? int_param(step, "join", 1, kMaxInputs) : 1;
  const bool residual = spec.inputs == spec.joined + 1;
  if (spec.inputs != spec.joined && !residual)
    fail(Status::kBadModel, "conv2d: takes x and an optional residual; of ", spec.inputs,
         " inputs the parameter 'join' says how many are x, joined by channel: here ", spec.joined);
  for (int64_t k = 0; k < spec.joined; ++k) spec.channels_in += channels[static_cast<size_t>(k)];
  const TensorRef w = weight(step, weights, "w", 4);
  spec.channels_out = w.shape[0];
  conv.kernel = w.shape[2];
  if (w.shape[1] != spec.channels_in || w.shape[2] != w.shape[3] || conv.kernel % 2 == 0 || conv.kernel > 31 ||
      spec.channels_out > 65536)
    fail(Status::kBadModel, "conv2d: w has shape [", w.shape[0], ", ", w.shape[1], ", ", w.shape[2], ", ", w.shape[3],
         "], expected [Co, ", spec.channels_in, ", k, k] with odd k <= 31");
  const TensorRef b = optional_weight(step, weights, "b", 1);
  if (b.rank && b.shape[0] != spec.channels_out)
    fail(Status::kBadModel, "conv2d: b has ", b.shape[0], " entries, expected ", spec.channels_out);
  conv.residual = residual ? static_cast<int32_t>(spec.joined) : 0;
  if (residual && channels.back() != spec.channels_out)
    fail(Status::kBadModel, "conv2d: the residual has ", channels.back(), " channels, expected ", spec.channels_out);
  const TensorRef slopes = optional_weight(step, weights, "slopes", 1);
  if (slopes.rank && slopes.shape[0] != spec.channels_out)
    fail(Status::kBadModel, "conv2d: slopes has ", slopes.shape[0], " entries, expected ", spec.channels_out);
  spec.weights[0] = w;
  spec.weights[1] = b;
  spec.weights[2] = slopes;
  const std::string border = choice_param(step, "border", {"zero", "replicate", "symmetric"});
  conv.border = border == "zero" ? Border::kZero : border == "replicate" ? Border::kReplicate : Border::kSymmetric;
  conv.activation = activation_param(step, "activation", true);
  conv.input_activation = activation_param(step, "input_activation");
  conv.sum_inside = bool_param(step, "sum_inside");
  conv.slopes = slopes.rank > 0;
  if (conv.slopes && conv.activation != Activation::kLeakyRelu)
    fail(Status::kBadModel, "conv2d: slopes are those of the activation leaky_relu");
  if (bool_param(step, "gate")) {
    if (!residual || conv.sum_inside || conv.activation != Activation::kNone)
      fail(Status::kBadModel, "conv2d: gate takes a residual, no activation and no sum_inside");
    conv.activation = Activation::kGate;
  }
  conv.slope = float_param(step, "slope", 0.0f);
  return spec;
}

int64_t upscale(const Spec&) { return 1; }

Reading reads(const Spec& spec, int index) {
  return index >= spec.joined || conv2d_of(spec).kernel == 1 ? kSamePlace
                                                             : Reading{Read::kWindow, conv2d_of(spec).border};
}

Rect needs(const Spec& spec, int index, const Rect& out) {
  if (index >= spec.joined) return out;
  const int64_t r = conv2d_of(spec).kernel / 2;
  const Blocks& b = spec.blocks;
  return {floor_div(out.y0 - b.y, b.rows) * b.rows + b.y - r, floor_div(out.x0 - b.x, b.columns) * b.columns + b.x - r,
          ceil_div(out.y1 - b.y, b.rows) * b.rows + b.y + r, ceil_div(out.x1 - b.x, b.columns) * b.columns + b.x + r};
}

int64_t granule(const Spec&) { return 1; }

int64_t flops(const Spec& spec, const Rect& out) {
  return 2 * spec.channels_in * spec.channels_out * conv2d_of(spec).kernel * conv2d_of(spec).kernel * height(out) *
         width(out);
}

}  // namespace

extern const Rule kRule_conv2d;
const Rule kRule_conv2d = {"conv2d", nullptr, parse, upscale, reads, needs, granule, flops};

}  // namespace fastsr
