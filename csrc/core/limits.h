// SPDX-License-Identifier: Apache-2.0
// Every limit on what a model file may ask for: the one table. Each is checked before what it limits is allocated.
#pragma once

#include <cstdint>

namespace fastsr {
namespace limits {

// Of the file.
constexpr int64_t kFileBytes = int64_t{512} << 20;
constexpr int64_t kHeaderBytes = int64_t{1} << 20;
constexpr int64_t kWeightBytes = int64_t{512} << 20;  // of all tensors as float32
constexpr int64_t kTensors = 4096;
constexpr int64_t kRank = 4;      // dimensions of a tensor
constexpr int64_t kSteps = 1024;  // of a plan as it is written
constexpr int64_t kInputs = 16;   // of a step as it is written
constexpr int64_t kJsonDepth = 32;

// Of the plan.
constexpr int64_t kScale = 16;
constexpr int64_t kNodes = 2048;      // steps, composed ones expanded
constexpr int64_t kChannels = 65536;  // of a value
constexpr int64_t kRadius = 4096;     // pixels of the input around an output pixel

// Of a run.
constexpr int64_t kPixels = int64_t{1} << 31;  // of an output

}  // namespace limits
}  // namespace fastsr
