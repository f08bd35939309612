// SPDX-License-Identifier: Apache-2.0
// The number of a resize_bicubic step. Plain data: kernels include this.
#pragma once

#include "core/kernel.h"

namespace fastsr {

struct ResizeBicubic {
  int64_t scale;
};

FASTSR_PARAMS(ResizeBicubic, resize_of)

}  // namespace fastsr
