// SPDX-License-Identifier: Apache-2.0
#include "lib/handles.h"

namespace fastsr {
namespace lib {

namespace {

struct Packed {
  Colors colors;
  int channels;
  int place[4];  // of each channel in a pixel
};

Packed packed(fastsr_format format) {
  switch (format) {
    case FASTSR_GRAY:
      return {Colors::kGray, 1, {0}};
    case FASTSR_GRAY_ALPHA:
      return {Colors::kGrayAlpha, 2, {0, 1}};
    case FASTSR_RGB:
    case FASTSR_RGB_PLANES:
      return {Colors::kRgb, 3, {0, 1, 2}};
    case FASTSR_RGBA:
    case FASTSR_RGBA_PLANES:
      return {Colors::kRgba, 4, {0, 1, 2, 3}};
    case FASTSR_BGR:
      return {Colors::kRgb, 3, {2, 1, 0}};
    default:
      return {Colors::kRgba, 4, {2, 1, 0, 3}};
  }
}

bool is_yuv(fastsr_format format) { return format >= FASTSR_YUV420 && format <= FASTSR_P010; }
bool is_planes(fastsr_format format) { return format == FASTSR_RGB_PLANES || format == FASTSR_RGBA_PLANES; }

struct Planes {
  const fastsr_image& image;
  int64_t bytes;  // of a sample
  Channel operator()(int plane, int64_t columns, int64_t samples, int64_t first) const {
    auto* const data = static_cast<unsigned char*>(image.planes[plane]);
    const int64_t row = image.strides[plane] ? image.strides[plane] : columns * samples * bytes;
    return {data ? data + first * bytes : nullptr, row, samples * bytes};
  }
};

}  // namespace

Pixels to_pixels(const fastsr_image& image, const char* what) {
  const fastsr_format format = image.format;
  const bool yuv = is_yuv(format);
  if (!yuv && !is_planes(format) && (format < FASTSR_GRAY || format > FASTSR_BGRA))
    fail(Status::kBadInput, what, ": format ", format, " is not one of fastsr_format");
  if (image.width < 1 || image.height < 1)
    fail(Status::kBadInput, what, ": an image of ", image.width, "x", image.height, " pixels is empty");
  const bool p010 = format == FASTSR_P010;
  fastsr_sample sample = image.sample;
  if (sample == FASTSR_DEFAULT_SAMPLE) sample = p010 ? FASTSR_UINT16 : FASTSR_UINT8;
  if (sample < FASTSR_UINT8 || sample > FASTSR_FLOAT)
    fail(Status::kBadInput, what, ": sample ", sample, " is not one of fastsr_sample");
  const int64_t bytes = sample == FASTSR_UINT8 ? 1 : sample == FASTSR_UINT16 ? 2 : 4;
  const int most = sample == FASTSR_UINT8 ? 8 : 16;
  const int depth = p010 ? 10 : image.depth ? image.depth : most;
  if (sample != FASTSR_FLOAT && (depth < 8 || depth > most))
    fail(Status::kBadInput, what, ": depth ", depth, " does not fit samples of ", most, " bits");
  if (yuv && (sample == FASTSR_FLOAT || (p010 && sample != FASTSR_UINT16) ||
              (format == FASTSR_NV12 && sample != FASTSR_UINT8) || (image.depth && p010 && image.depth != 10)))
    fail(Status::kBadInput, what, ": YUV420 is of uint8 or uint16, NV12 of uint8, P010 of uint16");
  if (image.matrix < 0 || image.matrix > FASTSR_BT2020 || image.range < 0 || image.range > FASTSR_FULL ||
      image.siting < 0 || image.siting > FASTSR_CENTER)
    fail(Status::kBadInput, what, ": matrix ", image.matrix, ", range ", image.range, ", siting ", image.siting,
         " are not known");

  Pixels pixels{};
  pixels.sample = sample == FASTSR_UINT8 ? Sample::kU8 : sample == FASTSR_UINT16 ? Sample::kU16 : Sample::kF32;
  pixels.height = image.height;
  pixels.width = image.width;
  const Planes plane{image, bytes};
  if (yuv) {
    pixels.colors = Colors::kYuv420;
    pixels.full = image.range == FASTSR_FULL;
    // Limited range of more bits is that of 8 bits times a power of two.
    const int bits = 1 << (depth - 8);
    pixels.levels = static_cast<float>(pixels.full && !p010 ? 256 * bits - 1 : 255 * bits);
    pixels.shift = p010 ? 6 : 0;
    pixels.matrix = image.matrix == FASTSR_BT601   ? Matrix::kBt601
                    : image.matrix == FASTSR_BT709 ? Matrix::kBt709
                                                   : Matrix::kBt2020;
    pixels.siting = image.siting == FASTSR_LEFT ? Siting::kLeft : Siting::kCenter;
    const int64_t half = (pixels.width + 1) / 2;
    pixels.channels[0] = plane(0, pixels.width, 1, 0);
    for (int k = 1; k < 3; ++k)
      pixels.channels[k] = format == FASTSR_YUV420 ? plane(k, half, 1, 0) : plane(1, half, 2, k - 1);
  } else {
    const Packed order = packed(format);
    pixels.colors = order.colors;
    pixels.levels = sample == FASTSR_FLOAT ? 0 : static_cast<float>((1 << depth) - 1);
    for (int k = 0; k < order.channels; ++k)
      pixels.channels[k] =
          is_planes(format) ? plane(k, pixels.width, 1, 0) : plane(0, pixels.width, order.channels, order.place[k]);
  }
  return pixels;
}

}  // namespace lib
}  // namespace fastsr
