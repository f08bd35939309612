// SPDX-License-Identifier: Apache-2.0
#include "core/enlarge.h"

#include <algorithm>

#include "core/tiles.h"

namespace fastsr {
size_t Enlarger::scratch_bytes(int64_t columns) const {
  return sizeof(float) * static_cast<size_t>(EnlargedRows::floats(scale, channels, columns));
}

EnlargedRows::EnlargedRows(const Enlarger& enlarger, int64_t x0, int64_t x1, void* scratch)
    : from_(enlarger),
      j0_(x0 / enlarger.scale),
      j1_((x1 + enlarger.scale - 1) / enlarger.scale),
      first_(std::max<int64_t>(0, j0_ - kReach)),
      last_(std::min(enlarger.width, j1_ + kReach)),
      stride_(stride(enlarger.scale, x1 - x0)),
      ring_(static_cast<float*>(scratch)),
      lines_(ring_ + kKept * enlarger.channels * stride_) {
  std::fill_n(held_, kKept, int64_t{-1});
}

void EnlargedRows::row(int64_t y) {
  const int64_t i = y / from_.scale, n = last_ - first_;
  const CubicPhase& phase = from_.down[static_cast<size_t>(y - i * from_.scale)];
  int64_t taps[4];
  for (int t = 0; t < 4; ++t) {
    taps[t] = border_index(i + phase.first + t, from_.height, Border::kSymmetric);
    int64_t& held = held_[taps[t] % kKept];
    if (held == taps[t]) continue;
    held = taps[t];
    float* to[kChannels];
    for (int k = 0; k < from_.channels; ++k) to[k] = kept(held, k);
    from_.read(held, first_, n, to);
  }
  for (int k = 0; k < from_.channels; ++k) {
    const float* const rows[4] = {kept(taps[0], k), kept(taps[1], k), kept(taps[2], k), kept(taps[3], k)};
    float* const line = lines_ + k * stride_ - (j0_ - kReach);  // line[j] is input column j
    from_.rows->blend(rows, phase.weight, n, line + first_);
    for (int64_t j = j0_ - kReach; j < first_; ++j) line[j] = line[border_index(j, from_.width, Border::kSymmetric)];
    for (int64_t j = last_; j < j1_ + kReach; ++j) line[j] = line[border_index(j, from_.width, Border::kSymmetric)];
  }
}

const float* EnlargedRows::columns(int channel, int64_t x, int64_t n, float* buffer) const {
  const int64_t s = from_.scale, begin = x / s, end = (x + n + s - 1) / s;
  const float* const line = lines_ + channel * stride_ + kReach + (begin - j0_);
  from_.rows->widen(line, from_.across.data(), s, end - begin, buffer);
  return buffer + (x - begin * s);
}

}  // namespace fastsr
