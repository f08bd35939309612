// SPDX-License-Identifier: Apache-2.0
#include "core/graph.h"

#include <algorithm>
#include <set>

#include "core/limits.h"
#include "core/status.h"
#include "core/tiles.h"

namespace fastsr {

namespace {

size_t index(int i) { return static_cast<size_t>(i); }

// The steps of ops of their own, each with the index of the plan's step it came from.
std::vector<std::pair<size_t, Step>> expanded(const std::vector<Step>& given, std::vector<std::string>& ops) {
  std::vector<std::pair<size_t, Step>> steps;
  for (size_t i = 0; i < given.size(); ++i) {
    const Step& step = given[i];
    const Rule& rule = find_rule(step.op);
    ops.push_back(step.op);
    if (!rule.expand) {
      steps.emplace_back(i, step);
    } else {
      if (step.inputs.size() != 1) fail(Status::kBadModel, "step ", i, " (", step.op, "): takes one input");
      for (Step& part : rule.expand(step)) steps.emplace_back(i, std::move(part));
    }
    if (static_cast<int64_t>(steps.size()) > limits::kNodes)
      fail(Status::kBadModel, "the plan's first ", i + 1, " steps are more than ", limits::kNodes,
           " convolutions and other simple steps");
  }
  return steps;
}

// Which values the steps read and make, in what shapes, with everything checked that does not depend on what they are for.
Graph resolve(const std::vector<Step>& steps, const std::vector<Value>& inputs, const Weights& weights) {
  Graph graph;
  graph.values = inputs;
  graph.inputs = static_cast<int>(inputs.size());
  std::map<std::string, int> known;
  for (const Value& input : inputs)
    if (!known.emplace(input.name, static_cast<int>(known.size())).second)
      fail(Status::kBadModel, "input '", input.name, "' is given twice");
  std::set<int> unread;
  for (auto& [i, step] : expanded(steps, graph.ops)) {
    Node node;
    node.rule = &find_rule(step.op);
    node.step = static_cast<int>(i);
    std::vector<int64_t> channels;
    for (const std::string& name : step.inputs) {
      const auto found = known.find(name);
      if (found == known.end())
        fail(Status::kBadModel, "step ", i, " (", step.op, "): value '", name, "' is not made before it is read");
      node.uses.push_back({found->second, Read::kPixel, Border::kZero});
      channels.push_back(graph.values[index(found->second)].channels);
      unread.erase(found->second);
    }
    if (channels.empty()) fail(Status::kBadModel, "step ", i, " (", step.op, "): no inputs");
    if (channels.size() > kMaxInputs)
      fail(Status::kBadModel, "step ", i, " (", step.op, "): more than ", kMaxInputs, " inputs");
    node.spec = node.rule->parse(step, weights, channels);
    for (size_t k = 0; k < node.uses.size(); ++k) {
      const Reading reading = node.rule->reads(node.spec, static_cast<int>(k));
      node.uses[k].read = reading.read;
      node.uses[k].border = reading.border;
    }
    const int64_t upscale = node.rule->upscale(node.spec);
    const int64_t in_scale = graph.values[index(node.uses[0].value)].scale;
    for (size_t k = 1; k < node.uses.size(); ++k)
      if (graph.values[index(node.uses[k].value)].scale != in_scale * upscale)
        fail(Status::kBadModel, "step ", i, " (", step.op, "): input '", step.inputs[k],
             "' has another size than the output");
    if (in_scale * upscale > limits::kScale)
      fail(Status::kBadModel, "step ", i, " (", step.op, "): scale above ", limits::kScale);
    if (node.rule->granule(node.spec) > 1 && (in_scale * upscale) % node.rule->granule(node.spec) != 0)
      fail(Status::kBadModel, "step ", i, " (", step.op, "): stride ", node.rule->granule(node.spec),
           " does not divide the scale ", in_scale * upscale);
    if (known.count(step.out))
      fail(Status::kBadModel, "step ", i, " (", step.op, "): value '", step.out, "' is made twice");
    node.out = static_cast<int>(graph.values.size());
    known[step.out] = node.out;
    unread.insert(node.out);
    graph.values.push_back({step.out, node.spec.channels_out, in_scale * upscale});
    node.given = std::move(step);
    graph.nodes.push_back(std::move(node));
  }
  graph.scale = graph.values.back().scale;
  if (unread.size() > 1) fail(Status::kBadModel, "the plan makes values that nothing reads");
  if (radius(graph) > limits::kRadius)
    fail(Status::kBadModel, "the receptive radius is above ", limits::kRadius, " pixels");
  return graph;
}

// How far beyond its own place a step reads its first input, in pixels of that.
int64_t reach(const Node& node) {
  const int64_t far = 720720, up = node.rule->upscale(node.spec);
  const Rect need = node.rule->needs(node.spec, 0, {far, far, far + 1, far + 1});
  return std::max(far / up - need.y0, need.y1 - far / up - 1);
}

}  // namespace

Graph check_plan(const Plan& plan, const Weights& weights) {
  if (plan.domain != "y" && plan.domain != "rgb") fail(Status::kBadModel, "domain '", plan.domain, "' is not y or rgb");
  if (plan.scale < 1 || plan.scale > limits::kScale)
    fail(Status::kBadModel, "scale ", plan.scale, " is not from 1 to 16");
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
    if (c < 1 || c > limits::kChannels)
      fail(Status::kBadModel, step.op, ": an input of ", c, " channels, expected 1 to ", limits::kChannels);
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
    for (size_t k = 0; k < node->uses.size(); ++k) {
      Rect& r = need[index(node->uses[k].value)];
      r = unite(r, node->rule->needs(node->spec, static_cast<int>(k), need[index(node->out)]));
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

std::vector<StepFacts> facts(const Graph& graph, int64_t h, int64_t w) {
  std::vector<StepFacts> rows;
  int last = -1;
  for (const Node& node : graph.nodes) {
    const Extent e = graph.extent(node.out, h, w);
    if (node.step != last) rows.push_back({graph.ops[index(node.step)], "", {}, 0, 0});
    last = node.step;
    StepFacts& row = rows.back();
    row.out = graph.values[index(node.out)].name;
    row.shape = e;
    row.radius += reach(node);  // of an op's parts together, where they follow each other
    row.flops += node.rule->flops(node.spec, {0, 0, e.height, e.width});
  }
  return rows;
}

}  // namespace fastsr
