// SPDX-License-Identifier: Apache-2.0
#include "plan.h"

#include <pybind11/stl.h>

#include "core/status.h"

namespace py = pybind11;

namespace {

template <typename T>
T as(const py::handle& value, const char* what) {
  try {
    return value.cast<T>();
  } catch (const py::cast_error&) {
    fastsr::fail(fastsr::Status::kBadModel, "a plan's ", what, " cannot be ", py::repr(value).cast<std::string>());
  }
}

fastsr::Param param_of(const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>();
  if (py::isinstance<py::int_>(value)) return as<int64_t>(value, "parameter");
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  return as<std::string>(value, "parameter");
}

}  // namespace

fastsr::Step to_step(const py::dict& data) {
  using Names = std::map<std::string, std::string>;
  fastsr::Step step;
  step.op = as<std::string>(data["op"], "op");
  step.inputs = as<std::vector<std::string>>(data["inputs"], "inputs");
  step.out = as<std::string>(data["out"], "out");
  step.weights = as<Names>(data["weights"], "weights");
  for (const auto& [key, value] : as<py::dict>(data["params"], "params"))
    step.params[as<std::string>(key, "parameter")] = param_of(value);
  return step;
}

fastsr::Plan to_plan(const py::dict& data) {
  fastsr::Plan plan;
  plan.domain = as<std::string>(data["domain"], "domain");
  plan.scale = as<int64_t>(data["scale"], "scale");
  for (const py::handle item : data["steps"]) plan.steps.push_back(to_step(as<py::dict>(item, "step")));
  return plan;
}

py::dict from_plan(const fastsr::Plan& plan) {
  py::list steps;
  for (const fastsr::Step& step : plan.steps) {
    py::dict data;
    data["op"] = step.op;
    data["inputs"] = step.inputs;
    data["out"] = step.out;
    data["weights"] = step.weights;
    data["params"] = step.params;
    steps.append(data);
  }
  py::dict data;
  data["domain"] = plan.domain;
  data["scale"] = plan.scale;
  data["steps"] = steps;
  return data;
}
