// SPDX-License-Identifier: Apache-2.0
// Pieces of rows of packed pixels, and what a kernel file does with them: one table per ISA. Plain data only (see
// csrc/cpu/simd.h for why); core/pixels puts the pieces together.
#pragma once

#include "core/tensor.h"

namespace fastsr {

enum class Sample : int { kU8, kU16, kF32 };

// Channels 0 .. channels - 1 of a piece of a row, wherever their bytes lie.
struct Samples {
  unsigned char* channel[4];  // of the first pixel; not aligned
  int64_t step;               // bytes from a pixel to the next
  int channels;
  Sample sample;
  bool swapped;  // in the byte order that is not this machine's
  int shift;     // bits below an integer's value: 6 in P010
  float levels;  // the integer that stands for 1
  // Where the 3 or 4 channels of a pixel lie side by side, alpha last, and pixels follow each other: order[m] is the
  // channel whose sample is the m-th in memory.
  bool adjacent;
  int order[4];
};

// out = m . (a, b, c) + offset
struct Mix {
  float m[3], offset;
};

// The 4 taps of the output pixels s j + p, for one p.
struct CubicPhase {
  int64_t first;  // place of the first tap, from input pixel j
  float weight[4];
};

// Rows of floats may be written up to 15 floats past their end, and read as far where nothing else is said. A pixel's
// value does not depend on where its piece begins.
struct PixelRows {
  const char* isa;
  // n pixels -> a row of floats per channel: integers over `levels`.
  void (*unpack)(const Samples& from, int64_t n, float* const* rows);
  // out[i] = m . (a, b, c)[i] + offset, each product but the first fused with its sum.
  void (*mix)(const Mix& m, const float* a, const float* b, const float* c, int64_t n, float* out);
  // out[i] = x[i] scale + offset
  void (*linear)(const float* x, float scale, float offset, int64_t n, float* out);
  // out[i] = (a[i] + b[i] + c[i]) / 3
  void (*mean)(const float* a, const float* b, const float* c, int64_t n, float* out);
  // out[i] = the sum of weight[t] rows[t][i], no product fused
  void (*blend)(const float* const* rows, const float* weight, int64_t n, float* out);
  // The scale n output pixels of line[0 .. n), no product fused; line[-2] to line[n + 18) can be read.
  void (*widen)(const float* line, const CubicPhase* phases, int64_t scale, int64_t n, float* out);
  // n pixels of a row of floats per channel, the first 3 mixed by back[0 .. 3) if it is given: clipped to [0, 1]; integers
  // are the nearest of `levels`. Nothing past the n pixels is read or written.
  void (*pack)(const float* const* rows, const Mix* back, int64_t n, const Samples& to);
  // Whether all are finite; nothing past the n floats is read.
  bool (*finite)(const float* x, int64_t n);
  // Lowers *low and raises *high to what is there; nothing past the n floats is read. Not for NaN.
  void (*extent)(const float* x, int64_t n, float* low, float* high);
};

extern const PixelRows* const kPixelRows[];
extern const int kPixelRowsCount;

}  // namespace fastsr
