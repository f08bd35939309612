// SPDX-License-Identifier: Apache-2.0
// cista   z = relu(w * y), then `steps` times z = relu(w * y + s * z)                            paper 004, Eq. 10 and 12
//
// Convolutions that share s, packed once; the sum and relu are in their last transform, and z goes back and forth
// between two planes.
#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

std::vector<Step> expand(const Step& step) {
  only(step, {"steps"}, {"w", "s"});
  const int64_t steps = int_param(step, "steps", 1, 256);
  for (const char* role : {"w", "s"})
    if (!step.weights.count(role)) fail(Status::kBadModel, "cista: weight '", role, "' is missing");
  const std::string fixed = step.out + "/fixed", relu = "relu";
  std::vector<Step> found{{"conv2d", step.inputs, fixed, {{"w", step.weights.at("w")}}, {}}};
  for (int64_t k = 1; k <= steps; ++k) {
    const std::string before = k == 1 ? fixed : step.out + "/" + std::to_string(k - 1);
    Step next{"conv2d", {before, fixed}, k == steps ? step.out : step.out + "/" + std::to_string(k), {}, {}};
    next.weights["w"] = step.weights.at("s");
    next.params = {{"activation", relu}, {"sum_inside", true}};
    if (k == 1) next.params["input_activation"] = relu;
    found.push_back(next);
  }
  return found;
}

}  // namespace

extern const Rule kRule_cista;
const Rule kRule_cista = {"cista", expand, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace fastsr
