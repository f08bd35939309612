// SPDX-License-Identifier: Apache-2.0
#include "core/yuv_sink.h"

#include <algorithm>

#include "core/memory.h"
#include "core/pool.h"
#include "core/resize.h"

namespace fastsr {
namespace {

constexpr int64_t kPiece = 256;

int64_t half(int64_t n) { return (n + 1) / 2; }

// Networks on Y: they run on the Y plane itself, and U and V are enlarged by bicubic. A band writes the chroma samples
// whose first pixel is in it.
class LumaSink : public PixelSink {
 public:
  LumaSink(const Pixels& in, const Pixels& out, int64_t scale, const PixelRows& rows)
      : PixelSink(in, out), rows_(rows), chroma_(chroma_enlarger(in_, scale, false, rows)) {}

  size_t scratch_bytes(int64_t, int64_t width) const override { return chroma_.scratch_bytes(half(width) + 1); }

  size_t bytes() const override { return bytes_of(out_); }

  void write(const View& band, void* scratch) override {
    const Rect& r = band.rect;
    bool good = true;
    float line[kPiece + EnlargedRows::kRoom];
    for (int64_t y = r.y0; y < r.y1; ++y)
      for (int64_t x = r.x0; x < r.x1; x += kPiece) {
        const int64_t n = std::min(kPiece, r.x1 - x);
        const float* luma[1] = {at(band, 0, y, x)};
        good = good && rows_.finite(luma[0], n);
        if (out_.full) {
          rows_.linear(luma[0], studio_swing().back_scale, studio_swing().back_offset, n, line);
          luma[0] = line;
        }
        rows_.pack(luma, nullptr, n, samples_of(out_, 0, 1, y, x));
      }
    if (!good) finite_.store(false, std::memory_order_relaxed);
    const int64_t begin = half(r.x0), end = half(r.x1);
    if (begin == end) return;
    EnlargedRows chroma(chroma_, begin, end, scratch);
    for (int64_t y = half(r.y0); y < half(r.y1); ++y) {
      chroma.row(y);
      for (int64_t x = begin; x < end; x += kPiece) {
        const int64_t n = std::min(kPiece, end - x);
        for (int k = 0; k < 2; ++k) {
          const float* const from[1] = {chroma.columns(k, x, n, line)};
          rows_.pack(from, nullptr, n, samples_of(out_, k + 1, 1, y, x));
        }
      }
    }
  }

 private:
  const PixelRows& rows_;
  const Enlarger chroma_;
};

// Networks on RGB: what they give becomes Y, U and V of every pixel; U and V are averaged when all bands are there, since
// a sample's pixels may lie in several.
class RgbSink : public PixelSink {
 public:
  RgbSink(const Pixels& in, const Pixels& out, const PixelRows& rows)
      : PixelSink(in, out),
        rows_(rows),
        mixes_(rgb_yuv(out.matrix, out.full)),
        stride_(out.width + 32),
        planes_(allocate(planes_bytes())) {}

  size_t bytes() const override { return bytes_of(out_) + planes_bytes(); }

  void write(const View& band, void*) override {
    const Rect& r = band.rect;
    bool good = true;
    float line[kPiece + 16];
    for (int64_t y = r.y0; y < r.y1; ++y)
      for (int64_t x = r.x0; x < r.x1; x += kPiece) {
        const int64_t n = std::min(kPiece, r.x1 - x);
        float rgb[3][kPiece + 16];
        for (int k = 0; k < 3; ++k) {
          good = good && rows_.finite(at(band, k, y, x), n);
          std::copy_n(at(band, k, y, x), n, rgb[k]);
          std::fill_n(rgb[k] + n, 16, 0.0f);
        }
        for (int k = 0; k < 3; ++k) {
          rows_.mix(mixes_.there[k], rgb[0], rgb[1], rgb[2], n, line);
          if (k == 0) {
            const float* const luma[1] = {line};
            rows_.pack(luma, nullptr, n, samples_of(out_, 0, 1, y, x));
          } else {
            std::copy_n(line, n, plane(k - 1, y) + x);
          }
        }
      }
    if (!good) finite_.store(false, std::memory_order_relaxed);
  }

  void finish(int threads, Executor& executor) override {
    parallel_for(half(out_.height), threads, [this](int64_t y, int) { average(y); }, executor);
  }

 private:
  // Row y of U and V.
  void average(int64_t y) const {
    const int64_t h = out_.height, w = out_.width, columns = half(w);
    float line[kPiece + 16];
    for (int k = 0; k < 2; ++k) {
      const float *a = plane(k, 2 * y), *b = plane(k, std::min(2 * y + 1, h - 1));
      const auto both = [&](int64_t x) { return a[x] + b[x]; };
      for (int64_t begin = 0; begin < columns; begin += kPiece) {
        const int64_t n = std::min(kPiece, columns - begin);
        for (int64_t x = begin; x < begin + n; ++x) {
          const float here = both(2 * x), right = both(std::min(2 * x + 1, w - 1));
          line[x - begin] = out_.siting == Siting::kCenter
                                ? (here + right) * 0.25f
                                : (2 * here + right + both(std::max<int64_t>(2 * x - 1, 0))) * 0.125f;
        }
        const float* const from[1] = {line};
        rows_.pack(from, nullptr, n, samples_of(out_, k + 1, 1, y, begin));
      }
    }
  }
  size_t planes_bytes() const { return sizeof(float) * static_cast<size_t>(2 * out_.height * stride_); }
  float* plane(int k, int64_t y) const {
    return reinterpret_cast<float*>(planes_.get()) + (k * out_.height + y) * stride_;
  }

  const PixelRows& rows_;
  const Ycbcr mixes_;
  const int64_t stride_;
  const Block planes_;
};

}  // namespace

Enlarger chroma_enlarger(const Pixels& pixels, int64_t scale, bool full_size, const PixelRows& rows) {
  // Sample j of a row lies at pixel 2 j + 1/2, or at 2 j: a half, or a quarter, of the 2 pixels that it stands for. Among
  // the pixels themselves, the latter is in the place of one.
  const double left = full_size ? 0 : 0.25;
  Enlarger made{&rows,
                half(pixels.height),
                half(pixels.width),
                scale,
                2,
                cubic_phases(scale),
                cubic_phases(scale, pixels.siting == Siting::kLeft ? left : 0.5),
                {}};
  made.read = [&pixels, &rows](int64_t y, int64_t x, int64_t n, float* const* to) {
    for (int k = 0; k < 2; ++k) rows.unpack(samples_of(pixels, k + 1, 1, y, x), n, to + k);
  };
  return made;
}

std::unique_ptr<PixelSink> make_yuv_sink(const Pixels& in, const Pixels& out, Domain domain, int64_t scale,
                                         const PixelRows& rows) {
  if (domain == Domain::kY) return std::make_unique<LumaSink>(in, out, scale, rows);
  return std::make_unique<RgbSink>(in, out, rows);
}

}  // namespace fastsr
