// SPDX-License-Identifier: Apache-2.0
// Planes enlarged by bicubic row by row, just the part that a band needs: chroma and alpha, which no network makes. The
// values are those of resize_bicubic on the whole plane, to the bit.
#pragma once

#include <functional>
#include <vector>

#include "core/pixel_rows.h"

namespace fastsr {

// What is enlarged: `channels` planes of height x width, to `scale` times the size, the border symmetric.
struct Enlarger {
  const PixelRows* rows;
  int64_t height, width, scale;
  int channels;
  std::vector<CubicPhase> down, across;  // of rows and of columns
  // Writes pixels [x, x + n) of row y of each channel; up to 15 floats past them may be written.
  std::function<void(int64_t y, int64_t x, int64_t n, float* const* to)> read;

  // Bytes that EnlargedRows of up to `columns` output columns work in.
  size_t scratch_bytes(int64_t columns) const;
};

// Output columns [x0, x1) of rows that are asked for one after another.
class EnlargedRows {
 public:
  static constexpr int kChannels = 3;
  static constexpr int64_t kReach = 2;  // input pixels beside an output pixel's own that its 4 taps may lie on
  static constexpr int64_t kKept = 8;   // input rows; 4 neighbours never share a place
  static constexpr int64_t kRoom = 48;  // floats that `columns` needs beside those asked for

  // Floats from a row of so many output columns to the next, and of all that it works in.
  static constexpr int64_t stride(int64_t scale, int64_t columns) {
    return (columns / scale + 2 + 2 * kReach + 2 * 16 + 15) / 16 * 16;
  }
  static constexpr int64_t floats(int64_t scale, int channels, int64_t columns) {
    return stride(scale, columns) * channels * (kKept + 1);
  }

  EnlargedRows(const Enlarger& enlarger, int64_t x0, int64_t x1, void* scratch);
  // Goes to output row y.
  void row(int64_t y);
  // Pixels [x, x + n) of a channel of that row, somewhere in `buffer`, which holds n + kRoom floats.
  const float* columns(int channel, int64_t x, int64_t n, float* buffer) const;

 private:
  float* kept(int64_t y, int channel) const { return ring_ + (y % kKept * from_.channels + channel) * stride_; }

  const Enlarger& from_;
  int64_t j0_, j1_;       // input columns under the output's
  int64_t first_, last_;  // those that are read, inside the image
  int64_t stride_;
  float *ring_, *lines_;  // lines_: the row, not yet widened, from input column j0_ - 2 on
  int64_t held_[kKept];   // which input row lies where
};

}  // namespace fastsr
