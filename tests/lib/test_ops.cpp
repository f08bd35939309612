// SPDX-License-Identifier: Apache-2.0
// Every op alone, with every instruction set of this machine. What "baseline" gives is the same to the bit on every machine,
// and golden_ops.txt holds digests of it; Python's tests compare it with float64 on x86. Other instruction sets round
// differently, a little. FASTSR_WRITE_OPS=<file> writes the table anew.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <sstream>

#include "core/isa.h"
#include "core/planes.h"
#include "core/session.h"
#include "helpers.h"

namespace {

struct Case {
  std::string name;
  fastsr::Step step;
  std::vector<int64_t> channels;
  std::map<std::string, std::vector<int64_t>> shapes;
};

std::vector<Case> cases() {
  std::vector<Case> made;
  using Params = std::map<std::string, fastsr::Param>;
  const auto add = [&](const std::string& op, const std::vector<int64_t>& channels,
                       const std::map<std::string, std::vector<int64_t>>& shapes, const Params& params) {
    fastsr::Step step{op, {}, "out", {}, params};
    for (size_t i = 0; i < channels.size(); ++i) step.inputs.push_back("x" + std::to_string(i));
    for (const auto& [role, shape] : shapes) step.weights[role] = role;
    made.push_back({op + "_" + std::to_string(made.size()), step, channels, shapes});
  };
  const std::string borders[] = {"zero", "replicate", "symmetric"};
  int64_t k = 1;
  for (const auto& [in, out] : {std::pair<int64_t, int64_t>{1, 16}, {16, 16}, {3, 5}, {24, 1}, {32, 32}, {7, 64}}) {
    for (const int64_t kernel : {1, 3, 5, 9})
      add("conv2d", {in}, {{"w", {out, in, kernel, kernel}}, {"b", {out}}},
          {{"border", borders[k++ % 3]}, {"activation", std::string(k % 2 ? "relu" : "none")}});
    add("conv2d", {in, out}, {{"w", {out, in, 3, 3}}, {"b", {out}}},
        {{"border", borders[k++ % 3]},
         {"activation", std::string("leaky_relu")},
         {"slope", 0.2},
         {"sum_inside", true}});
  }
  for (const int64_t scale : {2, 3, 4}) {
    add("resize_bicubic", {2}, {}, {{"scale", scale}});
    add("pixel_shuffle", {2 * scale * scale}, {}, {{"scale", scale}});
    add("upsample_residual", {16}, {{"w", {16, 16, scale, scale}}, {"b", {16}}}, {{"scale", scale}});
  }
  add("scale_shift", {5}, {{"scale", {5}}, {"shift", {5}}}, {});
  return made;
}

// Numbers in [-1, 1).
std::vector<float> numbers(size_t count, uint32_t seed) {
  std::vector<float> made(count);
  const Bytes bytes = noise(2 * count, seed);
  for (size_t i = 0; i < count; ++i)
    made[i] = static_cast<float>(bytes[2 * i] * 256 + bytes[2 * i + 1] - 32768) / 32768;
  return made;
}

std::vector<float> run(const Case& c, const std::string& isa) {
  constexpr int64_t kH = 21, kW = 38;
  std::map<std::string, std::vector<float>> values;
  fastsr::Weights weights;
  uint32_t seed = 1;
  for (const auto& [role, shape] : c.shapes) {
    int64_t count = 1, fan = 1;
    for (size_t i = 0; i < shape.size(); ++i) count *= shape[i], fan *= i ? shape[i] : 1;
    std::vector<float>& v = values[role] = numbers(static_cast<size_t>(count), seed++);
    for (float& x : v) x /= std::sqrt(static_cast<float>(fan));
    fastsr::TensorRef ref{v.data(), static_cast<int>(shape.size()), {1, 1, 1, 1}};
    std::copy(shape.begin(), shape.end(), ref.shape);
    weights[role] = ref;
  }
  fastsr::Options options;
  options.threads = 2;
  options.isa = isa;
  fastsr::Session session(fastsr::check_step(c.step, c.channels, weights), options);
  const fastsr::Graph& graph = session.program()->graph;
  std::vector<std::vector<float>> planes;
  std::vector<fastsr::PlaneSource> sources;
  for (int i = 0; i < graph.inputs; ++i) {
    const fastsr::Extent e = graph.extent(i, kH, kW);
    planes.push_back(numbers(static_cast<size_t>(e.channels * e.height * e.width), 100 + static_cast<uint32_t>(i)));
    sources.emplace_back(planes.back().data(), e);
  }
  std::vector<const fastsr::Source*> inputs;
  for (const fastsr::PlaneSource& source : sources) inputs.push_back(&source);
  const fastsr::Extent e = graph.extent(graph.out(), kH, kW);
  std::vector<float> out(static_cast<size_t>(e.channels * e.height * e.width));
  fastsr::PlaneSink sink(out.data(), e);
  session.run(inputs, kH, kW, sink);
  return out;
}

std::string digest_of(const std::vector<float>& values) {
  Bytes bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  std::ostringstream text;
  text << std::hex << digest(bytes);
  return text.str();
}

TEST(Ops, EveryInstructionSetAgrees) {
  for (const Case& c : cases()) {
    const std::vector<float> expected = run(c, "baseline");
    for (const std::string& isa : fastsr::usable_isas()) {
      const std::vector<float> made = run(c, isa);
      float worst = 0;
      for (size_t i = 0; i < made.size(); ++i) worst = std::max(worst, std::abs(made[i] - expected[i]));
      EXPECT_LT(worst, 1e-5f) << c.name << " " << isa;
    }
  }
}

TEST(Ops, BaselineIsTheSameEverywhere) {
  std::map<std::string, std::string> table;
  std::ifstream file(GOLDEN_OPS);
  for (std::string name, value; file >> name >> value;) table[name] = value;
  const char* path = std::getenv("FASTSR_WRITE_OPS");
  std::ofstream written(path ? path : "/dev/null");
  for (const Case& c : cases()) {
    const std::string value = digest_of(run(c, "baseline"));
    written << c.name << " " << value << "\n";
    EXPECT_TRUE(path || value == table[c.name]) << c.name << " " << value;
  }
}

}  // namespace
