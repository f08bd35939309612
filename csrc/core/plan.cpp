// SPDX-License-Identifier: Apache-2.0
#include "core/plan.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <set>

#include "core/status.h"
#include "core/tiles.h"

namespace fastsr {

namespace {

constexpr int64_t kMaxScale = 16;
constexpr int64_t kMaxRadius = 4096;
constexpr int64_t kMaxChannels = 65536;

template <typename Names>
std::string join(const Names& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

// The steps of ops of their own, each with the index of the plan's step it came from.
std::vector<std::pair<size_t, Step>> expanded(const std::vector<Step>& given, std::vector<std::string>& ops) {
  std::vector<std::pair<size_t, Step>> steps;
  for (size_t i = 0; i < given.size(); ++i) {
    const Step& step = given[i];
    const Rule& rule = find_rule(step.op);
    ops.push_back(step.op);
    if (!rule.expand) {
      steps.emplace_back(i, step);
      continue;
    }
    if (step.inputs.size() != 1) fail(Status::kBadModel, "step ", i, " (", step.op, "): takes one input");
    for (Step& part : rule.expand(step)) steps.emplace_back(i, std::move(part));
  }
  return steps;
}

// Which values the steps read and make, in what shapes, with everything checked that does not depend on what they are for.
Graph resolve(const std::vector<Step>& steps, const std::vector<Value>& inputs, const Weights& weights) {
  Graph graph;
  graph.values = inputs;
  graph.inputs = static_cast<int>(inputs.size());
  std::map<std::string, int> index;
  for (const Value& input : inputs)
    if (!index.emplace(input.name, static_cast<int>(index.size())).second)
      fail(Status::kBadModel, "input '", input.name, "' is given twice");
  std::set<int> unread;
  for (const auto& [i, step] : expanded(steps, graph.ops)) {
    Node node;
    node.rule = &find_rule(step.op);
    node.step = static_cast<int>(i);
    std::vector<int64_t> channels;
    for (const std::string& name : step.inputs) {
      const auto found = index.find(name);
      if (found == index.end())
        fail(Status::kBadModel, "step ", i, " (", step.op, "): value '", name, "' is not made before it is read");
      node.inputs.push_back(found->second);
      channels.push_back(graph.values[static_cast<size_t>(found->second)].channels);
      unread.erase(found->second);
    }
    if (channels.empty()) fail(Status::kBadModel, "step ", i, " (", step.op, "): no inputs");
    node.spec = node.rule->parse(step, weights, channels);
    const int64_t upscale = node.rule->upscale(node.spec);
    const int64_t in_scale = graph.values[static_cast<size_t>(node.inputs[0])].scale;
    for (size_t k = 1; k < node.inputs.size(); ++k)
      if (graph.values[static_cast<size_t>(node.inputs[k])].scale != in_scale * upscale)
        fail(Status::kBadModel, "step ", i, " (", step.op, "): input '", step.inputs[k],
             "' has another size than the output");
    if (in_scale * upscale > kMaxScale)
      fail(Status::kBadModel, "step ", i, " (", step.op, "): scale above ", kMaxScale);
    if (node.rule->granule(node.spec) > 1 && (in_scale * upscale) % node.rule->granule(node.spec) != 0)
      fail(Status::kBadModel, "step ", i, " (", step.op, "): stride ", node.rule->granule(node.spec),
           " does not divide the scale ", in_scale * upscale);
    if (index.count(step.out))
      fail(Status::kBadModel, "step ", i, " (", step.op, "): value '", step.out, "' is made twice");
    node.out = static_cast<int>(graph.values.size());
    index[step.out] = node.out;
    unread.insert(node.out);
    graph.values.push_back({step.out, node.spec.channels_out, in_scale * upscale});
    graph.nodes.push_back(node);
  }
  graph.scale = graph.values.back().scale;
  if (unread.size() > 1) fail(Status::kBadModel, "the plan makes values that nothing reads");
  if (radius(graph) > kMaxRadius) fail(Status::kBadModel, "the receptive radius is above ", kMaxRadius, " pixels");
  return graph;
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

double float_param(const Step& step, const char* name, double fallback) {
  const auto found = step.params.find(name);
  if (found == step.params.end()) return fallback;
  if (const int64_t* value = std::get_if<int64_t>(&found->second)) return static_cast<double>(*value);
  const double* value = std::get_if<double>(&found->second);
  // Kernels hold it as float32: a larger number would become infinity there.
  if (!value || !(std::abs(*value) <= static_cast<double>(FLT_MAX)))
    fail(Status::kBadModel, step.op, ": parameter '", name, "' must be a number that float32 can hold");
  return *value;
}

std::string choice_param(const Step& step, const char* name, const std::vector<std::string>& choices) {
  const auto found = step.params.find(name);
  if (found == step.params.end()) return choices.front();
  const std::string* value = std::get_if<std::string>(&found->second);
  if (!value || std::find(choices.begin(), choices.end(), *value) == choices.end())
    fail(Status::kBadModel, step.op, ": parameter '", name, "' is not one of ", join(choices));
  return *value;
}

Activation activation_param(const Step& step, const char* name) {
  const std::string act = choice_param(step, name, {"none", "relu", "leaky_relu"});
  return act == "none" ? Activation::kNone : act == "relu" ? Activation::kRelu : Activation::kLeakyRelu;
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

Graph check_plan(const Plan& plan, const Weights& weights) {
  if (plan.domain != "y" && plan.domain != "rgb") fail(Status::kBadModel, "domain '", plan.domain, "' is not y or rgb");
  if (plan.scale < 1 || plan.scale > kMaxScale) fail(Status::kBadModel, "scale ", plan.scale, " is not from 1 to 16");
  if (plan.steps.empty()) fail(Status::kBadModel, "the plan has no steps");
  const int64_t planes = plan.domain == "y" ? 1 : 3;
  Graph graph = resolve(plan.steps, {{"lr", planes, 1}}, weights);
  const Value& out = graph.values.back();
  if (out.name != "out") fail(Status::kBadModel, "the last step makes '", out.name, "', expected 'out'");
  if (out.scale != plan.scale || out.channels != planes)
    fail(Status::kBadModel, "the plan makes ", out.channels, " channels at scale ", out.scale, ", it declares ", planes,
         " at scale ", plan.scale);
  return graph;
}

Graph check_step(const Step& step, const std::vector<int64_t>& channels, const Weights& weights) {
  if (channels.empty() || channels.size() != step.inputs.size())
    fail(Status::kBadModel, step.op, ": ", step.inputs.size(), " inputs, channels of ", channels.size());
  for (int64_t c : channels)
    if (c < 1 || c > kMaxChannels)
      fail(Status::kBadModel, step.op, ": an input of ", c, " channels, expected 1 to ", kMaxChannels);
  const Rule& rule = find_rule(step.op);
  const bool several = channels.size() > 1 && !rule.expand;
  const int64_t upscale = several ? rule.upscale(rule.parse(step, weights, channels)) : 1;
  std::vector<Value> inputs;
  for (size_t k = 0; k < channels.size(); ++k) inputs.push_back({step.inputs[k], channels[k], k ? upscale : 1});
  return resolve({step}, inputs, weights);
}

int64_t radius(const Graph& graph) {
  // Seen from one LR pixel's worth of output, far from every border.
  const int64_t far = 1 << 20;
  std::vector<Rect> need(graph.values.size(), Rect{INT64_MAX, INT64_MAX, INT64_MIN, INT64_MIN});
  need.back() = {far * graph.scale, far * graph.scale, (far + 1) * graph.scale, (far + 1) * graph.scale};
  for (auto node = graph.nodes.rbegin(); node != graph.nodes.rend(); ++node)
    for (size_t k = 0; k < node->inputs.size(); ++k) {
      Rect& r = need[static_cast<size_t>(node->inputs[k])];
      r = unite(r, node->rule->needs(node->spec, static_cast<int>(k), need[static_cast<size_t>(node->out)]));
    }
  return std::max(far - need[0].y0, need[0].y1 - far - 1);
}

int64_t flops(const Graph& graph, int64_t h, int64_t w) {
  int64_t total = 0;
  for (const Node& node : graph.nodes) {
    const Extent e = graph.extent(node.out, h, w);
    total += node.rule->flops(node.spec, {0, 0, e.height, e.width});
  }
  return total;
}

}  // namespace fastsr
