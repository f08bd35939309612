// SPDX-License-Identifier: Apache-2.0
// YUV 4:2:0 after a network, and its chroma as planes; see core/pixels.h.
#pragma once

#include "core/enlarge.h"
#include "core/pixels.h"

namespace fastsr {

// The chroma of `pixels` enlarged: to 4:2:0 of `scale` times the size, or, scale 2 and `full_size`, to a value a pixel. Keeps a
// reference to `pixels`.
Enlarger chroma_enlarger(const Pixels& pixels, int64_t scale, bool full_size, const PixelRows& rows);

std::unique_ptr<PixelSink> make_yuv_sink(const Pixels& in, const Pixels& out, Domain domain, int64_t scale,
                                         const PixelRows& rows);

}  // namespace fastsr
