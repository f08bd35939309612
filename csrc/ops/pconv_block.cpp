// SPDX-License-Identifier: Apache-2.0
// pconv_block   out = x + w3 * act(w1 * act(x) + b1) + b3                                          paper 002, figure 2d
//
// Two convolutions: the session keeps the projected maps in a task's scratch, and makes one pixel around it twice.
#include "core/plan.h"
#include "core/status.h"

namespace fastsr {
namespace {

std::vector<Step> expand(const Step& step) {
  only(step, {"activation", "slope"}, {"w1", "b1", "w3", "b3"});
  const std::string inner = step.out + "/projected";
  Step project{"conv2d", step.inputs, inner, {}, step.params},
      conv{"conv2d", {inner, step.inputs[0]}, step.out, {}, {}};
  project.params.emplace("activation", std::string("relu"));
  project.params["input_activation"] = project.params["activation"];
  for (const auto& [role, name] : step.weights) (role[1] == '1' ? project : conv).weights[role.substr(0, 1)] = name;
  return {project, conv};
}

}  // namespace

extern const Rule kRule_pconv_block;
const Rule kRule_pconv_block = {"pconv_block", expand, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace fastsr
