// SPDX-License-Identifier: Apache-2.0
// conv2d   out = act(w * act_in(x) + b) + residual, or with sum_inside act(w * act_in(x) + b + residual); k x k, stride 1,
//          same size, border of (k-1)/2 pixels
#include "ops/conv2d.h"

#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights& weights, const std::vector<int64_t>& channels) {
  only(step, {"border", "input_activation", "activation", "sum_inside", "slope"}, {"w", "b"});
  if (channels.size() > 2) fail(Status::kBadModel, "conv2d: takes x and an optional residual");
  Spec spec{};
  Conv2d& conv = conv2d_of(spec);
  spec.inputs = static_cast<int64_t>(channels.size());
  spec.channels_in = channels[0];
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
  if (spec.inputs == 2 && channels[1] != spec.channels_out)
    fail(Status::kBadModel, "conv2d: the residual has ", channels[1], " channels, expected ", spec.channels_out);
  spec.weights[0] = w;
  spec.weights[1] = b;
  const std::string border = choice_param(step, "border", {"zero", "replicate", "symmetric"});
  conv.border = border == "zero" ? Border::kZero : border == "replicate" ? Border::kReplicate : Border::kSymmetric;
  conv.activation = activation_param(step, "activation");
  conv.input_activation = activation_param(step, "input_activation");
  conv.sum_inside = bool_param(step, "sum_inside");
  conv.slope = float_param(step, "slope", 0.0f);
  return spec;
}

int64_t upscale(const Spec&) { return 1; }

Reading reads(const Spec& spec, int index) {
  return index == 1 || conv2d_of(spec).kernel == 1 ? kSamePlace : Reading{Read::kWindow, conv2d_of(spec).border};
}

Rect needs(const Spec& spec, int index, const Rect& out) {
  if (index == 1) return out;
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
