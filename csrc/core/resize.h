// SPDX-License-Identifier: Apache-2.0
// MATLAB imresize bicubic to any size, for chroma, alpha and for making LR images; the op of the same name in plans
// has its own kernel for integer factors.
#pragma once

#include <cstdint>
#include <vector>

#include "core/pixel_rows.h"

namespace fastsr {

// The taps of output pixels 0 .. scale - 1, and of all that follow. Sample j of either side lies at j + `place` of a pixel's
// width: 0.5, or 0.25 for chroma that lies in the column of the left of two pixels. The weights are those of
// resize_bicubic to the bit.
std::vector<CubicPhase> cubic_phases(int64_t scale, double place = 0.5);

// x [channels, h, w] -> out [channels, oh, ow], both dense. Factors are oh / h and ow / w, or `scale` for both if it
// is above 0 (MATLAB's imresize(x, scale), whose output size is rounded up). Antialiased when shrinking.
void resize_bicubic(const float* x, int64_t channels, int64_t h, int64_t w, float* out, int64_t oh, int64_t ow,
                    double scale, int threads);

}  // namespace fastsr
