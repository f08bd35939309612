// SPDX-License-Identifier: Apache-2.0
// The numbers of a conv2d step. Plain data: kernels include this.
#pragma once

#include "core/kernel.h"

namespace fastsr {

struct Conv2d {
  int64_t kernel;  // its side k
  Border border;
  Activation activation, input_activation;  // of the sum; of what is read
  bool sum_inside;                          // the residual is added before the activation
  bool slopes;                              // weights[2] has a slope for each output
  float slope;
  int32_t residual;  // the input that is added; 0: none
};

FASTSR_PARAMS(Conv2d, conv2d_of)

}  // namespace fastsr
