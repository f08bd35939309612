// SPDX-License-Identifier: Apache-2.0
// An op's rule, written once per op in csrc/ops/<op>.cpp; Python, tiles, memory and kernels all ask it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/kernel.h"

namespace fastsr {

struct Step;
using Weights = std::map<std::string, TensorRef>;

// How a step reads one of its inputs.
enum class Read {
  kPixel,   // at the output's own place only: nothing outside of the image
  kWindow,  // around it, also outside of the image, where a border is shown
};
struct Reading {
  Read read;
  Border border;  // of a window
};
constexpr Reading kSamePlace{Read::kPixel, Border::kZero};

struct Rule {
  const char* op;
  // An op that is a short list of others: their steps, values between them named after step.out. The compiler fuses
  // them as it fuses all steps. Null for an op of its own, which has all of what follows. Throws Error(kBadModel).
  std::vector<Step> (*expand)(const Step& step);
  // Checks the step and reads its numbers; channels_in holds the channels of each input. Throws Error(kBadModel).
  Spec (*parse)(const Step& step, const Weights& weights, const std::vector<int64_t>& channels_in);
  // Output height = input height * upscale.
  int64_t (*upscale)(const Spec&);
  Reading (*reads)(const Spec&, int index);
  // The part of input `index` that the output rectangle reads; may reach outside the image.
  Rect (*needs)(const Spec&, int index, const Rect& out);
  // Output tiles begin and end at multiples of this (or at the image's edge).
  int64_t (*granule)(const Spec&);
  // Work for an output rectangle: multiply-adds count as two, recomputed halo included.
  int64_t (*flops)(const Spec&, const Rect& out);
};

// Both tables are written by csrc/cmake/FastsrOp.cmake.
extern const Rule* const kRules[];
extern const int kRuleCount;
extern const Kernel* const kKernels[];
extern const int kKernelCount;

const Rule& find_rule(const std::string& op);

static inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
static inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

}  // namespace fastsr
