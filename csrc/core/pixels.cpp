// SPDX-License-Identifier: Apache-2.0
#include "core/pixels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

#include "core/isa.h"
#include "core/pool.h"
#include "core/status.h"

namespace fastsr {
namespace {

int64_t size_of(Sample sample) { return sample == Sample::kU8 ? 1 : sample == Sample::kU16 ? 2 : 4; }

// The inverse of a 3 x 3 matrix.
void invert(const double (&m)[3][3], double (&out)[3][3]) {
  double det = 0;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      const int a = (j + 1) % 3, b = (j + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
      out[i][j] = m[a][c] * m[b][d] - m[a][d] * m[b][c];
      if (i == 0) det += m[j][0] * out[0][j];
    }
  for (auto& row : out)
    for (double& v : row) v /= det;
}

Ycbcr both_ways(const double (&there)[3][3], const double (&offset)[3]) {
  double back[3][3];
  invert(there, back);
  Ycbcr made{};
  for (int i = 0; i < 3; ++i) {
    double home = 0;
    for (int j = 0; j < 3; ++j) {
      made.there[i].m[j] = static_cast<float>(there[i][j]);
      made.back[i].m[j] = static_cast<float>(back[i][j]);
      home -= back[i][j] * offset[j];
    }
    made.there[i].offset = static_cast<float>(offset[i]);
    made.back[i].offset = static_cast<float>(home);
  }
  return made;
}

Pixels yuv(Sample sample, int64_t height, int64_t width) {
  Pixels pixels{};
  pixels.sample = sample;
  pixels.colors = Colors::kYuv420;
  pixels.height = height;
  pixels.width = width;
  pixels.levels = 255;
  return pixels;
}

}  // namespace

int channels_of(Colors colors) {
  switch (colors) {
    case Colors::kGray:
      return 1;
    case Colors::kGrayAlpha:
      return 2;
    case Colors::kRgba:
      return 4;
    default:
      return 3;
  }
}

size_t bytes_of(const Pixels& pixels) {
  const int64_t all = pixels.height * pixels.width, chroma = (pixels.height + 1) / 2 * ((pixels.width + 1) / 2);
  const int64_t samples = pixels.colors == Colors::kYuv420 ? all + 2 * chroma : all * channels_of(pixels.colors);
  return static_cast<size_t>(samples * size_of(pixels.sample));
}

Pixels i420(unsigned char* y, int64_t y_row, unsigned char* u, unsigned char* v, int64_t uv_row, int64_t height,
            int64_t width) {
  Pixels pixels = yuv(Sample::kU8, height, width);
  pixels.channels[0] = {y, y_row, 1};
  pixels.channels[1] = {u, uv_row, 1};
  pixels.channels[2] = {v, uv_row, 1};
  return pixels;
}

Pixels nv12(unsigned char* y, int64_t y_row, unsigned char* uv, int64_t uv_row, int64_t height, int64_t width) {
  Pixels pixels = yuv(Sample::kU8, height, width);
  pixels.channels[0] = {y, y_row, 1};
  pixels.channels[1] = {uv, uv_row, 2};
  pixels.channels[2] = {uv + 1, uv_row, 2};
  return pixels;
}

Pixels p010(unsigned char* y, int64_t y_row, unsigned char* uv, int64_t uv_row, int64_t height, int64_t width) {
  Pixels pixels = yuv(Sample::kU16, height, width);
  pixels.shift = 6;
  pixels.levels = 4 * 255;
  pixels.channels[0] = {y, y_row, 2};
  pixels.channels[1] = {uv, uv_row, 4};
  pixels.channels[2] = {uv + 2, uv_row, 4};
  return pixels;
}

Samples samples_of(const Pixels& pixels, int first, int count, int64_t y, int64_t x) {
  Samples made{};
  made.channels = count;
  made.sample = pixels.sample;
  made.swapped = pixels.swapped;
  made.shift = pixels.shift;
  made.levels = pixels.full && pixels.shift ? 1023.0f : pixels.levels;
  made.step = pixels.channels[first].column;
  for (int k = 0; k < count; ++k) {
    const Channel& channel = pixels.channels[first + k];
    made.channel[k] = channel.data + y * channel.row + x * channel.column;
  }
  if (count < 3) return made;
  const int64_t size = size_of(pixels.sample);
  made.adjacent = made.step == count * size;
  for (int k = 0; k < count; ++k) {
    int place = 0;
    for (int other = 0; other < count; ++other) place += made.channel[other] < made.channel[k];
    made.order[place] = k;
  }
  for (int m = 0; m < count; ++m)
    made.adjacent = made.adjacent && made.channel[made.order[m]] == made.channel[made.order[0]] + m * size;
  made.adjacent = made.adjacent && (count < 4 || made.order[3] == 3);
  return made;
}

const PixelRows& find_pixel_rows(const std::string& isa) {
  const std::vector<std::string>& isas = known_isas();
  for (auto it = std::find(isas.rbegin(), isas.rend(), isa); it != isas.rend(); ++it)
    for (int i = 0; i < kPixelRowsCount; ++i)
      if (*it == kPixelRows[i]->isa) return *kPixelRows[i];
  fail(Status::kDevice, "there is no code for pixels on ", isa);
}

const Ycbcr& rgb_ycbcr() {
  // MATLAB's rounded figures, by which networks on Y were trained and are measured.
  static const Ycbcr made = both_ways({{65.481 / 255, 128.553 / 255, 24.966 / 255},
                                       {-37.797 / 255, -74.203 / 255, 112.0 / 255},
                                       {112.0 / 255, -93.786 / 255, -18.214 / 255}},
                                      {16.0 / 255, 128.0 / 255, 128.0 / 255});
  return made;
}

Ycbcr rgb_yuv(Matrix matrix, bool full) {
  const double kr = matrix == Matrix::kBt601 ? 0.299 : matrix == Matrix::kBt709 ? 0.2126 : 0.2627;
  const double kb = matrix == Matrix::kBt601 ? 0.114 : matrix == Matrix::kBt709 ? 0.0722 : 0.0593;
  const double kg = 1 - kr - kb, y = full ? 1 : 219.0 / 255, c = full ? 0.5 : 112.0 / 255;
  return both_ways({{y * kr, y * kg, y * kb},
                    {-c * kr / (1 - kb), -c * kg / (1 - kb), c},
                    {c, -c * kg / (1 - kr), -c * kb / (1 - kr)}},
                   {full ? 0.0 : 16.0 / 255, 128.0 / 255, 128.0 / 255});
}

const Swing& studio_swing() {
  static const Swing made{static_cast<float>(219.0 / 255), static_cast<float>(16.0 / 255),
                          static_cast<float>(255.0 / 219), static_cast<float>(-16.0 / 219)};
  return made;
}

bool check_values(const Pixels& pixels, bool channels_first, int threads, const std::string& isa, BadValue* bad,
                  Executor& executor) {
  if (pixels.sample != Sample::kF32) return true;
  const PixelRows& rows = find_pixel_rows(isa);
  const int count = channels_of(pixels.colors);
  constexpr int64_t kRows = 16, kPiece = 256;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  struct Seen {
    float low = kInfinity, high = -kInfinity;
    bool finite = true;
    void add(const Seen& other) {
      low = std::min(low, other.low);
      high = std::max(high, other.high);
      finite = finite && other.finite;
    }
  };
  Seen seen[kMostThreads];  // by worker
  const auto look = [&](int64_t i, int worker) {
    Seen band;
    float line[4][kPiece + 16];
    float* const to[4] = {line[0], line[1], line[2], line[3]};
    for (int64_t y = i * kRows; y < std::min(pixels.height, (i + 1) * kRows); ++y)
      for (int64_t x = 0; x < pixels.width; x += kPiece) {
        const int64_t n = std::min(kPiece, pixels.width - x);
        rows.unpack(samples_of(pixels, 0, count, y, x), n, to);
        for (int k = 0; k < count; ++k) {
          band.finite = band.finite && rows.finite(line[k], n);
          rows.extent(line[k], n, &band.low, &band.high);
        }
      }
    seen[worker].add(band);
  };
  parallel_for((pixels.height + kRows - 1) / kRows, threads, look, executor);
  Seen all;
  for (const Seen& one : seen) all.add(one);
  if (all.finite && all.low >= kLowest && all.high <= kHighest) return true;
  *bad = {all.finite, 0, 0, 0, 0, all.low, all.high};
  if (all.finite) return false;
  const int outer = channels_first ? count : 1, inner = channels_first ? 1 : count;
  for (int c = 0; c < outer; ++c)
    for (int64_t y = 0; y < pixels.height; ++y)
      for (int64_t x = 0; x < pixels.width; ++x)
        for (int k = c; k < c + inner; ++k) {
          float value[16], *to[1] = {value};
          rows.unpack(samples_of(pixels, k, 1, y, x), 1, to);
          if (std::isfinite(value[0])) continue;
          *bad = {false, y, x, k, value[0], 0, 0};
          return false;
        }
  return false;
}

std::string describe(const BadValue& bad, const std::string& index) {
  std::ostringstream text;
  if (bad.finite) {
    text << "float images must lie in [0, 1], this one goes from " << bad.low << " to " << bad.high
         << ": divide it by its range";
  } else {
    text << "the image holds "
         << (std::isnan(bad.value) ? "nan"
             : bad.value > 0       ? "inf"
                                   : "-inf")
         << " at index " << index << ": replace NaN and infinity first";
  }
  return text.str();
}

bool alike(const Pixels& a, const Pixels& b) {
  bool same = a.sample == b.sample && a.colors == b.colors && a.height == b.height && a.width == b.width &&
              a.swapped == b.swapped && a.shift == b.shift && a.levels == b.levels && a.matrix == b.matrix &&
              a.full == b.full && a.siting == b.siting;
  for (int k = 0; a.colors == Colors::kYuv420 && k < 3; ++k)
    same = same && a.channels[k].column == b.channels[k].column;
  return same;
}

void check_pixels(const Pixels& pixels) {
  if (pixels.height < 1 || pixels.width < 1)
    fail(Status::kBadInput, "an image of ", pixels.width, "x", pixels.height, " pixels is empty");
  for (int k = 0; k < channels_of(pixels.colors); ++k)
    if (!pixels.channels[k].data) fail(Status::kBadInput, "channel ", k, " of the image has no memory");
}

void check_pixels(const Pixels& in, const Pixels& out, int64_t scale) {
  check_pixels(in);
  check_pixels(out);
  if (out.height != in.height * scale || out.width != in.width * scale)
    fail(Status::kBadInput, "the output is ", out.width, "x", out.height, " pixels, expected ", in.width * scale, "x",
         in.height * scale);
  if (out.colors != in.colors) fail(Status::kBadInput, "the output has other channels than the input");
  if (in.colors == Colors::kYuv420 &&
      (out.matrix != in.matrix || out.full != in.full || out.siting != in.siting || out.levels != in.levels))
    fail(Status::kBadInput, "the output's matrix, range, siting and depth must be the input's");
}

}  // namespace fastsr
