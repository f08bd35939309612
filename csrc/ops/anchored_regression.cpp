// SPDX-License-Identifier: Apache-2.0
// anchored_regression   out = base + mean over the 9 patches on a pixel of P[argmax_a |d_a . f|] f,  f = filters * x
// paper 000, Eq. 5; x is the LR image, base its bicubic upscaling; every LR pixel has a patch (fastsr/ops says why)
#include "ops/anchored_regression.h"

#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

Spec parse(const Step& step, const Weights& weights, const std::vector<int64_t>& channels) {
  only(step, {"scale"}, {"filters", "atoms", "projections"});
  if (channels.size() != 2 || channels[0] != 1 || channels[1] != 1)
    fail(Status::kBadModel, "anchored_regression: takes x and its bicubic upscaling, of one channel each");
  Spec spec{};
  AnchoredRegression& anchored = anchored_of(spec);
  spec.inputs = 2;
  spec.channels_in = spec.channels_out = 1;
  const int64_t s = anchored.scale = int_param(step, "scale", 1, 8);
  const TensorRef filters = weight(step, weights, "filters", 3);
  const TensorRef atoms = weight(step, weights, "atoms", 2);
  const TensorRef projections = weight(step, weights, "projections", 3);
  anchored.features = filters.shape[0];
  anchored.kernel = filters.shape[1];
  anchored.patch = 3 * s;
  anchored.atoms = atoms.shape[0];
  if (filters.shape[2] != anchored.kernel || anchored.kernel % 2 == 0 || anchored.kernel > 31 ||
      anchored.features > 256)
    fail(Status::kBadModel, "anchored_regression: filters have shape [", filters.shape[0], ", ", filters.shape[1], ", ",
         filters.shape[2], "], expected [n <= 256, f, f] with odd f <= 31");
  if (atoms.shape[1] != anchored.features || anchored.atoms > 65536)
    fail(Status::kBadModel, "anchored_regression: atoms have shape [", atoms.shape[0], ", ", atoms.shape[1],
         "], expected [A <= 65536, ", anchored.features, "]");
  if (projections.shape[0] != anchored.atoms || projections.shape[1] != anchored.patch * anchored.patch ||
      projections.shape[2] != anchored.features)
    fail(Status::kBadModel, "anchored_regression: projections have shape [", projections.shape[0], ", ",
         projections.shape[1], ", ", projections.shape[2], "], expected [", anchored.atoms, ", ",
         anchored.patch * anchored.patch, ", ", anchored.features, "]");
  spec.weights[0] = filters;
  spec.weights[1] = atoms;
  spec.weights[2] = projections;
  return spec;
}

int64_t upscale(const Spec& spec) { return anchored_of(spec).scale; }

Reading reads(const Spec&, int index) { return index == 1 ? kSamePlace : Reading{Read::kWindow, Border::kSymmetric}; }

// A cell sees the patches of its LR pixel and of the 8 around it, and their filters reach further.
Rect needs(const Spec& spec, int index, const Rect& out) {
  if (index == 1) return out;
  const int64_t s = anchored_of(spec).scale, reach = 1 + anchored_of(spec).kernel / 2;
  return {floor_div(out.y0, s) - reach, floor_div(out.x0, s) - reach, ceil_div(out.y1, s) + reach,
          ceil_div(out.x1, s) + reach};
}

int64_t granule(const Spec& spec) { return anchored_of(spec).scale; }

int64_t flops(const Spec& spec, const Rect& out) {
  const int64_t s = anchored_of(spec).scale, n = anchored_of(spec).features;
  const int64_t patches = (ceil_div(height(out), s) + 2) * (ceil_div(width(out), s) + 2);
  return 2 * patches * n *
         (anchored_of(spec).kernel * anchored_of(spec).kernel + anchored_of(spec).atoms +
          anchored_of(spec).patch * anchored_of(spec).patch);
}

}  // namespace

extern const Rule kRule_anchored_regression;
const Rule kRule_anchored_regression = {"anchored_regression", nullptr, parse, upscale, reads, needs, granule, flops};

}  // namespace fastsr
