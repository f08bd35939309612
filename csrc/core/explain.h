// SPDX-License-Identifier: Apache-2.0
// What each step of a plan will do on this CPU: for people.
#pragma once

#include "core/program.h"

namespace fastsr {

struct StepReport {
  StepFacts facts;
  std::string who;                        // kernel, ISA and algorithm
  int64_t bytes;                          // read and written, of fp32
  int64_t task_height, task_width, band;  // of the segment's output, in pixels
};

std::vector<StepReport> explain(const Program& program, int64_t h, int64_t w);

}  // namespace fastsr
