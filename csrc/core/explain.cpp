// SPDX-License-Identifier: Apache-2.0
#include "core/explain.h"

#include "core/layout.h"

namespace fastsr {

std::vector<StepReport> explain(const Program& program, int64_t h, int64_t w) {
  const Layout layout = choose_layout(program, h, w, Ends{});
  std::vector<StepReport> reports;
  for (StepFacts& row : facts(program.graph, h, w)) reports.push_back({std::move(row), "", 0, 0, 0, 0});
  size_t segment = 0, row = 0;
  for (size_t i = 0; i < program.launches.size(); ++i) {
    const Node& node = program.graph.nodes[i];
    const Launch& launch = program.launches[i];
    if (i && node.step != program.graph.nodes[i - 1].step) ++row;
    while (static_cast<int>(i) >= program.segments[segment].last) ++segment;
    const auto bytes = [&](int value) {
      const Extent e = program.stored_extent(value, h, w);
      return 4 * e.channels * e.height * e.width;
    };
    StepReport& report = reports[row];
    report.who = std::string("cpu/") + launch.kernel->isa;
    if (launch.kernel->algorithm) report.who += std::string("/") + launch.kernel->algorithm(launch.spec);
    report.bytes += bytes(node.out);
    for (const Use& use : node.uses) report.bytes += bytes(use.value);
    report.task_height = layout.segments[segment].height;
    report.task_width = layout.segments[segment].width;
    report.band = layout.segments[segment].band;
  }
  return reports;
}

}  // namespace fastsr
