// SPDX-License-Identifier: Apache-2.0
// A plan as given: names and parameters, plain data. What it means is found by check_plan (core/graph.h).
#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "core/kernel.h"
#include "core/rule.h"

namespace fastsr {

using Param = std::variant<bool, int64_t, double, std::string>;

struct Step {
  std::string op;
  std::vector<std::string> inputs;
  std::string out;
  std::map<std::string, std::string> weights;  // role -> tensor
  std::map<std::string, Param> params;
};

struct Plan {
  std::string domain;  // "y" or "rgb"
  int64_t scale = 1;
  std::vector<Step> steps;
};

// Typed access for the rules; every failure names the step and what was expected.
int64_t int_param(const Step& step, const char* name, int64_t low, int64_t high);
float float_param(const Step& step, const char* name, float fallback);
std::string choice_param(const Step& step, const char* name, const std::vector<std::string>& choices);
TensorRef weight(const Step& step, const Weights& weights, const char* role, int rank);
TensorRef optional_weight(const Step& step, const Weights& weights, const char* role, int rank);
// none, relu or leaky_relu; with `curved` also silu, sigmoid or tanh.
Activation activation_param(const Step& step, const char* name, bool curved = false);
bool bool_param(const Step& step, const char* name);
void only(const Step& step, const std::vector<std::string>& params, const std::vector<std::string>& roles);

}  // namespace fastsr
