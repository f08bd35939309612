// SPDX-License-Identifier: Apache-2.0
// The number of a pixel_shuffle step. Plain data: kernels include this.
#pragma once

#include "core/kernel.h"

namespace fastsr {

struct PixelShuffle {
  int64_t scale;
};

FASTSR_PARAMS(PixelShuffle, shuffle_of)

}  // namespace fastsr
