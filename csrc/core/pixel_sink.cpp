// SPDX-License-Identifier: Apache-2.0
// What a network gives, as packed gray or RGB again, with chroma and alpha of the original enlarged by bicubic.
#include <algorithm>

#include "core/enlarge.h"
#include "core/hidden.h"
#include "core/memory.h"
#include "core/pixels.h"
#include "core/resize.h"
#include "core/yuv_sink.h"

namespace fastsr {
namespace {

constexpr int64_t kPiece = 256;  // pixels at a time: their rows of floats stay in L1

class PackedSink : public PixelSink {
 public:
  PackedSink(const Pixels& in, const Pixels& out, Domain domain, int64_t scale, const PixelRows& rows)
      : PixelSink(in, out),
        gray_(in.colors == Colors::kGray || in.colors == Colors::kGrayAlpha),
        alpha_(has_alpha(in.colors)),
        chroma_(domain == Domain::kY && !gray_ ? 2 : 0),
        colors_(domain == Domain::kY ? 1 : 3),
        rows_(rows),
        // Whole vectors of input columns, where a piece begins with one.
        piece_(16 * scale * std::max<int64_t>(1, kPiece / (16 * scale))) {
    const std::vector<CubicPhase> phases = cubic_phases(scale);
    enlarger_ = {&rows, in.height, in.width, scale, chroma_ + (alpha_ ? 1 : 0), phases, phases, {}};
    enlarger_.read = [this](int64_t y, int64_t x, int64_t n, float* const* to) { read(y, x, n, to); };
  }

  size_t scratch_bytes(int64_t, int64_t width) const override { return enlarger_.scratch_bytes(width); }

  size_t bytes() const override { return bytes_of(out_) + held_; }

  void write(const View& band, void* scratch) override {
    const Rect& r = band.rect;
    EnlargedRows beside(enlarger_, r.x0, r.x1, scratch);
    bool good = true;
    for (int64_t y = r.y0; y < r.y1; ++y) {
      if (enlarger_.channels) beside.row(y);
      for (int64_t x = r.x0; x < r.x1; x += piece_) {
        const int64_t n = std::min(piece_, r.x1 - x);
        for (int k = 0; k < colors_; ++k) good = good && rows_.finite(at(band, k, y, x), n);
        piece(band, beside, y, x, n);
      }
    }
    if (!good) finite_.store(false, std::memory_order_relaxed);
  }

 private:
  // n output pixels from (y, x) on.
  void piece(const View& band, const EnlargedRows& beside, int64_t y, int64_t x, int64_t n) const {
    float made[4][kPiece + EnlargedRows::kRoom];
    const float* from[4] = {at(band, 0, y, x)};
    int count = 1;
    const Mix* back = nullptr;
    if (gray_ && colors_ == 1) {
      rows_.linear(from[0], studio_swing().back_scale, studio_swing().back_offset, n, made[0]);
      from[0] = made[0];
    } else if (gray_) {
      rows_.mean(at(band, 0, y, x), at(band, 1, y, x), at(band, 2, y, x), n, made[0]);
      from[0] = made[0];
    } else if (chroma_) {
      back = rgb_ycbcr().back;
      for (; count < 3; ++count) from[count] = beside.columns(count - 1, x, n, made[count]);
    } else {
      for (; count < 3; ++count) from[count] = at(band, count, y, x);
    }
    if (alpha_) {
      from[count] = beside.columns(chroma_, x, n, made[3]);
      ++count;
    }
    rows_.pack(from, back, n, samples_of(out_, 0, count, y, x));
  }

  // Chroma and alpha of the original.
  void read(int64_t y, int64_t x, int64_t n, float* const* to) const {
    const int count = channels_of(in_.colors);
    if (!chroma_) return rows_.unpack(samples_of(in_, count - 1, 1, y, x), n, to);
    for (int64_t begin = 0; begin < n; begin += kPiece) {
      const int64_t part = std::min(kPiece, n - begin);
      float line[3][kPiece + 16];
      float* const rgba[4] = {line[0], line[1], line[2], alpha_ ? to[2] + begin : nullptr};
      rows_.unpack(samples_of(in_, 0, count, y, x + begin), part, rgba);
      for (int k = 0; k < 2; ++k) rows_.mix(rgb_ycbcr().there[k + 1], line[0], line[1], line[2], part, to[k] + begin);
    }
  }

  const bool gray_, alpha_;
  const int chroma_, colors_;  // planes beside the network's, and of it
  const PixelRows& rows_;
  const int64_t piece_;
  Enlarger enlarger_;
};

}  // namespace

std::unique_ptr<PixelSink> make_sink(const Pixels& in, const Pixels& out, Domain domain, int64_t scale,
                                     const std::string& isa) {
  check_pixels(in, out, scale);
  const PixelRows& rows = find_pixel_rows(isa);
  if (in.colors == Colors::kYuv420) return make_yuv_sink(in, out, domain, scale, rows);
  return std::make_unique<PackedSink>(in, out, domain, scale, rows);
}

}  // namespace fastsr
