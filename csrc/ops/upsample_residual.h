// SPDX-License-Identifier: Apache-2.0
// The numbers of an upsample_residual step. Plain data: kernels include this.
#pragma once

#include "core/kernel.h"

namespace fastsr {

struct UpsampleResidual {
  int64_t scale;
  Activation activation;  // of what is read
  float slope;
};

FASTSR_PARAMS(UpsampleResidual, upsample_of)

}  // namespace fastsr
