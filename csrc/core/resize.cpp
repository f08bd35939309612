// SPDX-License-Identifier: Apache-2.0
#include "core/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/pool.h"
#include "core/tiles.h"

namespace fastsr {
namespace {

double cubic(double x) {
  x = std::fabs(x);
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x <= 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// taps[o * count + t] weighs input index[o * count + t].
struct Taps {
  int64_t count;
  std::vector<float> weight;
  std::vector<int64_t> index;
};

Taps make_taps(int64_t in, int64_t out, double scale) {
  const double stretch = std::min(1.0, scale);  // below 1 the kernel widens: antialiasing
  Taps taps;
  taps.count = static_cast<int64_t>(std::ceil(4.0 / stretch)) + 1;
  taps.weight.resize(static_cast<size_t>(out * taps.count));
  taps.index.resize(static_cast<size_t>(out * taps.count));
  std::vector<double> w(static_cast<size_t>(taps.count));
  for (int64_t o = 0; o < out; ++o) {
    const double u = (static_cast<double>(o) + 0.5) / scale - 0.5;
    const int64_t left = static_cast<int64_t>(std::floor(u - 2.0 / stretch)) + 1 - (stretch < 1 ? 1 : 0);
    double sum = 0;
    for (int64_t t = 0; t < taps.count; ++t)
      sum += w[static_cast<size_t>(t)] = cubic(stretch * (u - static_cast<double>(left + t)));
    for (int64_t t = 0; t < taps.count; ++t) {
      const size_t at = static_cast<size_t>(o * taps.count + t);
      taps.weight[at] = static_cast<float>(w[static_cast<size_t>(t)] / sum);
      taps.index[at] = border_index(left + t, in, Border::kSymmetric);
    }
  }
  return taps;
}

}  // namespace

std::vector<CubicPhase> cubic_phases(int64_t scale, double place) {
  std::vector<CubicPhase> phases(static_cast<size_t>(scale));
  for (int64_t p = 0; p < scale; ++p) {
    CubicPhase& phase = phases[static_cast<size_t>(p)];
    const double u = (static_cast<double>(p) + place) / static_cast<double>(scale) - place;
    phase.first = static_cast<int64_t>(std::floor(u - 2.0)) + 1;
    double w[4], sum = 0;
    for (int t = 0; t < 4; ++t) sum += w[t] = cubic(u - static_cast<double>(phase.first + t));
    for (int t = 0; t < 4; ++t) phase.weight[t] = static_cast<float>(w[t] / sum);
  }
  return phases;
}

void resize_bicubic(const float* x, int64_t channels, int64_t h, int64_t w, float* out, int64_t oh, int64_t ow,
                    double scale, int threads) {
  const Taps rows = make_taps(h, oh, scale > 0 ? scale : static_cast<double>(oh) / static_cast<double>(h));
  const Taps columns = make_taps(w, ow, scale > 0 ? scale : static_cast<double>(ow) / static_cast<double>(w));
  constexpr int64_t kBand = 16;
  const int64_t bands = (oh + kBand - 1) / kBand;
  parallel_for(channels * bands, threads, [&](int64_t task, int) {
    const int64_t c = task / bands, y0 = task % bands * kBand;
    std::vector<float> line(static_cast<size_t>(w));
    for (int64_t y = y0; y < std::min(oh, y0 + kBand); ++y) {
      std::fill(line.begin(), line.end(), 0.0f);
      for (int64_t t = 0; t < rows.count; ++t) {
        const float weight = rows.weight[static_cast<size_t>(y * rows.count + t)];
        const float* from = x + (c * h + rows.index[static_cast<size_t>(y * rows.count + t)]) * w;
        if (weight != 0.0f)
          for (int64_t k = 0; k < w; ++k) line[static_cast<size_t>(k)] += weight * from[k];
      }
      float* to = out + (c * oh + y) * ow;
      for (int64_t k = 0; k < ow; ++k) {
        float sum = 0;
        for (int64_t t = 0; t < columns.count; ++t)
          sum += columns.weight[static_cast<size_t>(k * columns.count + t)] *
                 line[static_cast<size_t>(columns.index[static_cast<size_t>(k * columns.count + t)])];
        to[k] = sum;
      }
    }
  });
}

}  // namespace fastsr
