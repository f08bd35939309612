// SPDX-License-Identifier: Apache-2.0
#include "core/plan_json.h"

#include <cfloat>
#include <cmath>

#include "core/json.h"
#include "core/limits.h"
#include "core/status.h"

namespace fastsr {

namespace {

Param param_of(const Json& value, size_t step, const std::string& name) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_number_float())
    fail(Status::kBadModel, "plan step ", step, ": params must map names to numbers or strings, '", name,
         "' is neither");
  const double number = value.get<double>();
  if (!(std::abs(number) <= static_cast<double>(FLT_MAX)))
    fail(Status::kBadModel, "plan step ", step, ": parameter '", name, "' is beyond the range of float32");
  return number;
}

Step step_of(const Json& data, size_t i) {
  if (!has_keys(data, {"op", "inputs", "out", "weights", "params"}))
    fail(Status::kBadModel, "plan step ", i, ": expected an object with keys op, inputs, out, weights, params");
  const Json &inputs = data["inputs"], &weights = data["weights"], &params = data["params"];
  if (!data["op"].is_string() || !data["out"].is_string())
    fail(Status::kBadModel, "plan step ", i, ": op and out must be strings");
  if (!inputs.is_array() || static_cast<int64_t>(inputs.size()) > limits::kInputs)
    fail(Status::kBadModel, "plan step ", i, ": inputs must be a list of value names, at most ", limits::kInputs);
  if (!weights.is_object()) fail(Status::kBadModel, "plan step ", i, ": weights must map roles to tensor names");
  if (!params.is_object()) fail(Status::kBadModel, "plan step ", i, ": params must map names to numbers or strings");

  Step step;
  step.op = data["op"].get<std::string>();
  step.out = data["out"].get<std::string>();
  for (const Json& name : inputs) {
    if (!name.is_string()) fail(Status::kBadModel, "plan step ", i, ": inputs must be a list of value names");
    step.inputs.push_back(name.get<std::string>());
  }
  for (const auto& [role, tensor] : weights.items()) {
    if (!tensor.is_string()) fail(Status::kBadModel, "plan step ", i, ": weights must map roles to tensor names");
    step.weights[role] = tensor.get<std::string>();
  }
  for (const auto& [name, value] : params.items()) step.params[name] = param_of(value, i, name);
  return step;
}

}  // namespace

Plan parse_plan(std::string_view text) {
  const Json data = parse_json(text, "the plan");
  if (!has_keys(data, {"domain", "scale", "steps"}))
    fail(Status::kBadModel, "the plan: expected an object with keys domain, scale, steps");
  const Json &domain = data["domain"], &scale = data["scale"], &steps = data["steps"];
  if (domain != "y" && domain != "rgb") fail(Status::kBadModel, "the plan: domain ", domain.dump(), " is not y or rgb");
  if (!scale.is_number_integer() || scale < 1 || scale > limits::kScale)
    fail(Status::kBadModel, "the plan: scale ", scale.dump(), " is not an integer from 1 to ", limits::kScale);
  if (!steps.is_array() || steps.empty() || static_cast<int64_t>(steps.size()) > limits::kSteps)
    fail(Status::kBadModel, "the plan: steps must be a list of 1 to ", limits::kSteps, " steps");

  Plan plan;
  plan.domain = domain.get<std::string>();
  plan.scale = scale.get<int64_t>();
  for (size_t i = 0; i < steps.size(); ++i) plan.steps.push_back(step_of(steps[i], i));
  return plan;
}

}  // namespace fastsr
