// SPDX-License-Identifier: Apache-2.0
#include "core/plan.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/status.h"

namespace fastsr {

namespace {

template <typename Names>
std::string join(const Names& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

}  // namespace

const Rule& find_rule(const std::string& op) {
  std::vector<std::string> known;
  for (int i = 0; i < kRuleCount; ++i) {
    if (op == kRules[i]->op) return *kRules[i];
    known.push_back(kRules[i]->op);
  }
  fail(Status::kBadModel, "op '", op, "' is not one of ", join(known));
}

int64_t int_param(const Step& step, const char* name, int64_t low, int64_t high) {
  const auto found = step.params.find(name);
  if (found == step.params.end()) fail(Status::kBadModel, step.op, ": parameter '", name, "' is missing");
  const int64_t* value = std::get_if<int64_t>(&found->second);
  if (!value || *value < low || *value > high)
    fail(Status::kBadModel, step.op, ": parameter '", name, "' must be an integer from ", low, " to ", high);
  return *value;
}

float float_param(const Step& step, const char* name, float fallback) {
  const auto found = step.params.find(name);
  if (found == step.params.end()) return fallback;
  const int64_t* whole = std::get_if<int64_t>(&found->second);
  const double* value = std::get_if<double>(&found->second);
  const double number = whole ? static_cast<double>(*whole) : value ? *value : NAN;
  // Kernels hold it as float32: a larger number would become infinity there.
  if (!(std::abs(number) <= static_cast<double>(FLT_MAX)))
    fail(Status::kBadModel, step.op, ": parameter '", name, "' must be a number that float32 can hold");
  return static_cast<float>(number);
}

std::string choice_param(const Step& step, const char* name, const std::vector<std::string>& choices) {
  const auto found = step.params.find(name);
  if (found == step.params.end()) return choices.front();
  const std::string* value = std::get_if<std::string>(&found->second);
  if (!value || std::find(choices.begin(), choices.end(), *value) == choices.end())
    fail(Status::kBadModel, step.op, ": parameter '", name, "' is not one of ", join(choices));
  return *value;
}

Activation activation_param(const Step& step, const char* name, bool curved) {
  std::vector<std::string> names{"none", "relu", "leaky_relu", "silu", "sigmoid", "tanh"};  // as in Activation
  if (!curved) names.resize(3);
  const std::string act = choice_param(step, name, names);
  return static_cast<Activation>(std::find(names.begin(), names.end(), act) - names.begin());
}

bool bool_param(const Step& step, const char* name) {
  const auto found = step.params.find(name);
  if (found == step.params.end()) return false;
  const bool* value = std::get_if<bool>(&found->second);
  if (!value) fail(Status::kBadModel, step.op, ": parameter '", name, "' must be true or false");
  return *value;
}

TensorRef optional_weight(const Step& step, const Weights& weights, const char* role, int rank) {
  const auto named = step.weights.find(role);
  if (named == step.weights.end()) return {nullptr, 0, {0, 0, 0, 0}};
  const auto found = weights.find(named->second);
  if (found == weights.end())
    fail(Status::kBadModel, step.op, ": tensor '", named->second, "' is not in the model file");
  if (found->second.rank != rank)
    fail(Status::kBadModel, step.op, ": tensor '", named->second, "' has ", found->second.rank,
         " dimensions, expected ", rank);
  for (int i = 0; i < rank; ++i)
    if (found->second.shape[i] < 1) fail(Status::kBadModel, step.op, ": tensor '", named->second, "' is empty");
  return found->second;
}

TensorRef weight(const Step& step, const Weights& weights, const char* role, int rank) {
  if (!step.weights.count(role)) fail(Status::kBadModel, step.op, ": weight '", role, "' is missing");
  return optional_weight(step, weights, role, rank);
}

void only(const Step& step, const std::vector<std::string>& params, const std::vector<std::string>& roles) {
  for (const auto& [name, value] : step.params)
    if (std::find(params.begin(), params.end(), name) == params.end())
      fail(Status::kBadModel, step.op, ": unknown parameter '", name, "', known are: ", join(params));
  for (const auto& [role, tensor] : step.weights)
    if (std::find(roles.begin(), roles.end(), role) == roles.end())
      fail(Status::kBadModel, step.op, ": unknown weight '", role, "', known are: ", join(roles));
}

}  // namespace fastsr
