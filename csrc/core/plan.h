// SPDX-License-Identifier: Apache-2.0
// A plan as given (names and parameters) and as resolved (values and specs by index, every shape checked).
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

using Weights = std::map<std::string, TensorRef>;

// Typed access for the rules; every failure names the step and what was expected.
int64_t int_param(const Step& step, const char* name, int64_t low, int64_t high);
double float_param(const Step& step, const char* name, double fallback);
std::string choice_param(const Step& step, const char* name, const std::vector<std::string>& choices);
TensorRef weight(const Step& step, const Weights& weights, const char* role, int rank);
TensorRef optional_weight(const Step& step, const Weights& weights, const char* role, int rank);
Activation activation_param(const Step& step, const char* name);
bool bool_param(const Step& step, const char* name);
void only(const Step& step, const std::vector<std::string>& params, const std::vector<std::string>& roles);

// One step after checking: which values it reads and makes.
struct Node {
  const Rule* rule;
  Spec spec;
  std::vector<int> inputs;  // value indices
  int out;                  // value index
  int step;                 // of the plan: an op that expands into several has a node for each
};

// Channels and resolution (multiple of the first input's) of every value are known.
struct Value {
  std::string name;
  int64_t channels;
  int64_t scale;
};

struct Graph {
  std::vector<Node> nodes;
  std::vector<Value> values;     // the inputs, then what each node makes
  int inputs;                    // a plan has one
  std::vector<std::string> ops;  // per step of the plan
  int64_t scale;

  Extent extent(int value, int64_t h, int64_t w) const {
    const Value& v = values[static_cast<size_t>(value)];
    return {v.channels, h * v.scale, w * v.scale};
  }
  int out() const { return nodes.back().out; }
};

// Checks everything that can be wrong with a plan before anything is allocated. Throws Error(kBadModel).
Graph check_plan(const Plan& plan, const Weights& weights);

// One step alone, on inputs of so many channels each. The size of an input beside the first follows from the op: it is the
// output's. Throws Error(kBadModel).
Graph check_step(const Step& step, const std::vector<int64_t>& channels, const Weights& weights);

// How far, in pixels of the first input, an output pixel's value reaches.
int64_t radius(const Graph& graph);
int64_t flops(const Graph& graph, int64_t h, int64_t w);

}  // namespace fastsr
