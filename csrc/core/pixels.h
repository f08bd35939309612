// SPDX-License-Identifier: Apache-2.0
// Packed pixels around a network: what the caller's memory holds becomes the planes that a network reads, and what the
// network gives becomes pixels of the same kind again, chroma and alpha enlarged by bicubic on the way. All of it happens
// band by band, while a band is in cache.
//
// A network on Y reads Y of ITU-R BT.601 in studio swing, 16/255 to 235/255, as MATLAB's rgb2ycbcr makes it. Gray is RGB
// of three equal channels. YUV in limited range gives its Y as it is; in full range Y is brought to 16/255 .. 235/255.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "core/io.h"
#include "core/pixel_rows.h"
#include "core/pool.h"

namespace fastsr {

enum class Colors { kGray, kGrayAlpha, kRgb, kRgba, kYuv420 };
enum class Domain { kY, kRgb };  // what a network reads
enum class Matrix { kBt601, kBt709, kBt2020 };
// Where a chroma sample of 4:2:0 lies: between 2 x 2 pixels (JPEG, MPEG-1), or in the column of the left two (MPEG-2, H.264,
// HEVC unless they say otherwise). Rows are centred in both.
enum class Siting { kCenter, kLeft };

// One channel in the caller's memory. Strides are bytes and may be negative.
struct Channel {
  unsigned char* data;
  int64_t row, column;
};

// An image in the caller's memory.
struct Pixels {
  Sample sample;
  Colors colors;
  int64_t height, width;
  Channel channels[4];             // gray, alpha; R, G, B, alpha; Y, U, V with U and V of half the size, rounded up
  bool swapped = false;            // samples are in the byte order that is not this machine's
  int shift = 0;                   // bits below a sample's value
  float levels = 0;                // the value that stands for 1; 0: of floats
  Matrix matrix = Matrix::kBt601;  // of kYuv420, as are those below
  bool full = false;
  Siting siting = Siting::kLeft;
};

int channels_of(Colors colors);
// Of memory that the pixels take, gaps between them left out.
size_t bytes_of(const Pixels& pixels);

// Planar 4:2:0 of 8 bits; Y, then U and V (I420), or with U and V in turns (NV12; u is the first byte of the pair).
Pixels i420(unsigned char* y, int64_t y_row, unsigned char* u, unsigned char* v, int64_t uv_row, int64_t height,
            int64_t width);
Pixels nv12(unsigned char* y, int64_t y_row, unsigned char* uv, int64_t uv_row, int64_t height, int64_t width);
// 10 bits in the upper ones of 16, otherwise as NV12. Rows are in bytes.
Pixels p010(unsigned char* y, int64_t y_row, unsigned char* uv, int64_t uv_row, int64_t height, int64_t width);

// Pixels [x, x + ...) of row y of channels [first, first + count), as kernels take them.
Samples samples_of(const Pixels& pixels, int first, int count, int64_t y, int64_t x);

// The row functions of an ISA; see choose_isa.
const PixelRows& find_pixel_rows(const std::string& isa);

// RGB -> Y, Cb, Cr in studio swing, and back. The one place of these weights; _core.ycbcr() shows them.
struct Ycbcr {
  Mix there[3], back[3];
};
const Ycbcr& rgb_ycbcr();
// The same for YUV of a matrix and range; of 8 bits over 255, or of 10 bits over 4 x 255 (over 1023 in full range).
Ycbcr rgb_yuv(Matrix matrix, bool full);
// Y of studio swing = scale g + offset, for gray in [0, 1] or Y of full range.
struct Swing {
  float scale, offset, back_scale, back_offset;
};
const Swing& studio_swing();

constexpr float kLowest = -1e-3f, kHighest = 1 + 1e-3f;

// What is wrong with the values of float pixels: the first that is no number, or the range of all.
struct BadValue {
  bool finite;
  int64_t y, x;
  int channel;
  float value, low, high;
};
// Floats must be numbers from kLowest to kHighest: resampling leaves [0, 1] a little. True where they are, as all integers
// are; else `bad` is filled in. The first is by rows, or by channels where the caller counts these first.
bool check_values(const Pixels& pixels, bool channels_first, int threads, const std::string& isa, BadValue* bad,
                  Executor& executor = process_pool());
// "the image holds nan at index (2, 3, 1): ..."; `index` is how the caller counts.
std::string describe(const BadValue& bad, const std::string& index);

// Throws Error(kBadInput) for sizes below 1, a missing channel, or an output that is not `scale` times the input of the
// same kind.
void check_pixels(const Pixels& pixels);
void check_pixels(const Pixels& in, const Pixels& out, int64_t scale);

// Whether images differ in nothing but where their samples lie: those of a stream. Planes of YUV must have equal columns.
bool alike(const Pixels& a, const Pixels& b);

class PixelSource : public Source {
 public:
  // Reads another image that is alike.
  virtual void set(const Pixels& pixels) = 0;
};

// Reads `pixels`, whose memory stays the caller's, as the planes of a network on `domain`.
std::unique_ptr<PixelSource> make_source(const Pixels& pixels, Domain domain, const std::string& isa);

// Takes what the network made of `in` and writes `out`.
class PixelSink : public Sink {
 public:
  // Takes what becomes of another image, both alike to those before.
  void set(const Pixels& in, const Pixels& out) {
    in_ = in;
    out_ = out;
    finite_.store(true, std::memory_order_relaxed);
  }
  // What is left to do when all bands are written.
  virtual void finish(int /*threads*/, Executor& /*executor*/ = process_pool()) {}
  // Bytes beside the images that the caller holds while the run goes on.
  void hold(size_t bytes) { held_ = bytes; }
  // Whether all that the network gave were numbers.
  bool finite() const { return finite_.load(std::memory_order_relaxed); }

 protected:
  PixelSink(const Pixels& in, const Pixels& out) : in_(in), out_(out) {}
  Pixels in_, out_;
  size_t held_ = 0;
  std::atomic<bool> finite_{true};
};
std::unique_ptr<PixelSink> make_sink(const Pixels& in, const Pixels& out, Domain domain, int64_t scale,
                                     const std::string& isa);

}  // namespace fastsr
