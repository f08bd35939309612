// SPDX-License-Identifier: Apache-2.0
// A plan as checked: which values its steps read and make, in what shapes and how. A graph never changes.
#pragma once

#include <string>
#include <vector>

#include "core/plan.h"

namespace fastsr {

// One reading of a value. How it is read and which border is shown belong to the reading: of one value, two readers may
// see two borders.
struct Use {
  int value;
  Read read;
  Border border;
};

// One step. An op that expands into several has a node for each.
struct Node {
  const Rule* rule;
  Spec spec;
  std::vector<Use> uses;
  int out;     // the value it makes
  int step;    // of the plan
  Step given;  // names, so that other weights can take the place of these
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

// Checks everything that can be wrong with a plan before anything is allocated; of weights, only shapes are looked at.
// Throws Error(kBadModel).
Graph check_plan(const Plan& plan, const Weights& weights);

// One step alone, on inputs of so many channels each. The size of an input beside the first follows from the op: it is the
// output's. Throws Error(kBadModel).
Graph check_step(const Step& step, const std::vector<int64_t>& channels, const Weights& weights);

// How far, in pixels of the first input, an output pixel's value reaches.
int64_t radius(const Graph& graph);
int64_t flops(const Graph& graph, int64_t h, int64_t w);

// What a step of the plan is for an h x w input: known without a CPU's kernels.
struct StepFacts {
  std::string op, out;
  Extent shape;
  int64_t radius, flops;
};
std::vector<StepFacts> facts(const Graph& graph, int64_t h, int64_t w);

}  // namespace fastsr
