// SPDX-License-Identifier: Apache-2.0
// The limits of a plan: what is above them is refused before anything is allocated.
#pragma once

#include <cstdint>

namespace fastsr {

constexpr int64_t kMaxScale = 16;
constexpr int64_t kMaxRadius = 4096;              // pixels of the input around an output pixel
constexpr int64_t kMaxChannels = 65536;           // of a value
constexpr int64_t kMaxNodes = 2048;               // steps, composed ones expanded
constexpr int64_t kMaxPixels = int64_t{1} << 31;  // of an output

}  // namespace fastsr
