// SPDX-License-Identifier: Apache-2.0
// Packed pixels and YUV as the planes of a network.
#include <algorithm>

#include "core/enlarge.h"
#include "core/pixels.h"
#include "core/yuv_sink.h"

namespace fastsr {
namespace {

constexpr int64_t kPiece = 256;  // pixels at a time: their rows of floats stay in L1

// Gray and RGB, with or without alpha.
class PackedSource : public PixelSource {
 public:
  PackedSource(const Pixels& pixels, Domain domain, const PixelRows& rows)
      : pixels_(pixels), domain_(domain), rows_(rows) {}

  void read(const View& to) const override {
    const bool gray = pixels_.colors == Colors::kGray || pixels_.colors == Colors::kGrayAlpha;
    const Rect& r = to.rect;
    for (int64_t y = r.y0; y < r.y1; ++y)
      for (int64_t x = r.x0; x < r.x1; x += kPiece) {
        const int64_t n = std::min(kPiece, r.x1 - x);
        const Samples from = samples_of(pixels_, 0, gray ? 1 : channels_of(pixels_.colors), y, x);
        float* const out = at(to, 0, y, x);
        float line[4][kPiece + 16];
        if (domain_ == Domain::kY) {
          float* const rgb[4] = {line[0], line[1], line[2], line[3]};
          rows_.unpack(from, n, rgb);
          rows_.mix(rgb_ycbcr().there[0], rgb[0], rgb[gray ? 0 : 1], rgb[gray ? 0 : 2], n, out);
        } else {
          float* const rgb[4] = {out, out + to.channel_stride, out + 2 * to.channel_stride, line[3]};
          rows_.unpack(from, n, rgb);
          for (int k = 1; gray && k < 3; ++k) std::copy_n(out, n, rgb[k]);
        }
      }
  }

  size_t bytes() const override { return bytes_of(pixels_); }

  void set(const Pixels& pixels) override { pixels_ = pixels; }

 private:
  Pixels pixels_;
  const Domain domain_;
  const PixelRows& rows_;
};

class YuvSource : public PixelSource {
 public:
  YuvSource(const Pixels& pixels, Domain domain, const PixelRows& rows)
      : pixels_(pixels),
        domain_(domain),
        rows_(rows),
        mixes_(rgb_yuv(pixels.matrix, pixels.full)),
        chroma_(chroma_enlarger(pixels_, 2, true, rows)) {}

  void read(const View& to) const override {
    const Rect& r = to.rect;
    for (int64_t x = r.x0; x < r.x1; x += kPiece) read(to, x, std::min(kPiece, r.x1 - x));
  }

  size_t bytes() const override { return bytes_of(pixels_); }

  void set(const Pixels& pixels) override { pixels_ = pixels; }

 private:
  // n columns from x on: what enlarges their chroma works on the stack.
  void read(const View& to, int64_t x, int64_t n) const {
    alignas(64) float scratch[EnlargedRows::floats(2, 2, kPiece)];
    EnlargedRows chroma(chroma_, x, x + n, scratch);
    for (int64_t y = to.rect.y0; y < to.rect.y1; ++y) {
      float* const out = at(to, 0, y, x);
      float line[3][kPiece + EnlargedRows::kRoom];
      float* const luma[1] = {domain_ == Domain::kY ? out : line[0]};
      rows_.unpack(samples_of(pixels_, 0, 1, y, x), n, luma);
      if (domain_ == Domain::kY) {
        if (pixels_.full) rows_.linear(out, studio_swing().scale, studio_swing().offset, n, out);
        continue;
      }
      chroma.row(y);
      const float* const u = chroma.columns(0, x, n, line[1]);
      const float* const v = chroma.columns(1, x, n, line[2]);
      for (int k = 0; k < 3; ++k) rows_.mix(mixes_.back[k], line[0], u, v, n, out + k * to.channel_stride);
    }
  }

  Pixels pixels_;
  const Domain domain_;
  const PixelRows& rows_;
  const Ycbcr mixes_;
  const Enlarger chroma_;
};

}  // namespace

std::unique_ptr<PixelSource> make_source(const Pixels& pixels, Domain domain, const std::string& isa) {
  check_pixels(pixels);
  const PixelRows& rows = find_pixel_rows(isa);
  if (pixels.colors == Colors::kYuv420) return std::make_unique<YuvSource>(pixels, domain, rows);
  return std::make_unique<PackedSource>(pixels, domain, rows);
}

}  // namespace fastsr
