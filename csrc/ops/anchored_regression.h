// SPDX-License-Identifier: Apache-2.0
// The numbers of an anchored_regression step. Plain data: kernels include this.
#pragma once

#include "core/kernel.h"

namespace fastsr {

struct AnchoredRegression {
  int64_t scale;     // stride s of the patches
  int64_t kernel;    // side f of the feature filters
  int64_t patch;     // side m of a patch
  int64_t features;  // n1
  int64_t atoms;     // A
};

FASTSR_PARAMS(AnchoredRegression, anchored_of)

}  // namespace fastsr
