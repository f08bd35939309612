// SPDX-License-Identifier: Apache-2.0
// The bytes that every shipped model makes of a fixed image, by the code that all machines share (ISA "baseline"). golden.txt
// holds their digests; tests/test_library.py makes the same of it in Python.
// FASTSR_WRITE_GOLDEN=<file> writes the table anew.
#include <algorithm>
#include <sstream>

#include "helpers.h"

namespace {

constexpr int kW = 23, kH = 18;

struct Format {
  const char* name;
  fastsr_format format;
  fastsr_sample sample;
};
constexpr Format kFormats[] = {{"gray8", FASTSR_GRAY, FASTSR_UINT8},  {"rgb8", FASTSR_RGB, FASTSR_UINT8},
                               {"rgba8", FASTSR_RGBA, FASTSR_UINT8},  {"rgb16", FASTSR_RGB, FASTSR_UINT16},
                               {"i420", FASTSR_YUV420, FASTSR_UINT8}, {"nv12", FASTSR_NV12, FASTSR_UINT8},
                               {"p010", FASTSR_P010, FASTSR_UINT16}};

// Dense memory for an image.
struct Image {
  Bytes bytes;
  fastsr_image view;
  Image(const Format& format, int w, int h) : view(fastsr_packed(format.format, w, h, nullptr)) {
    const size_t y = static_cast<size_t>(w * h), chroma = static_cast<size_t>((w + 1) / 2 * ((h + 1) / 2));
    const size_t size = format.sample == FASTSR_UINT16 ? 2 : 1;
    const size_t samples = format.format == FASTSR_GRAY   ? y
                           : format.format == FASTSR_RGB  ? 3 * y
                           : format.format == FASTSR_RGBA ? 4 * y
                                                          : y + 2 * chroma;
    bytes.resize(samples * size);
    view.sample = format.sample;
    view.planes[0] = bytes.data();
    if (format.format >= FASTSR_YUV420) {
      view.planes[1] = bytes.data() + y * size;
      view.planes[2] = bytes.data() + (y + chroma) * size;
    }
  }
};

std::string made(const std::string& model, const Format& format, const char* isa) {
  const fastsr::Model net(model_path(model));
  auto given = options(2);
  given.isa = isa;
  fastsr::Context context(net, &given);
  Image in(format, kW, kH), out(format, kW * net.scale(), kH * net.scale());
  const Bytes values = noise(in.bytes.size(), 7);
  std::copy(values.begin(), values.end(), in.bytes.begin());
  context.upscale(in.view, out.view);
  std::ostringstream text;
  text << std::hex << digest(out.bytes);
  return text.str();
}

const Format& format_of(const std::string& name) {
  return *std::find_if(std::begin(kFormats), std::end(kFormats), [&](const Format& f) { return name == f.name; });
}

TEST(Golden, BytesAreThoseOfTheTable) {
  std::ifstream table(GOLDEN);
  int count = 0;
  for (std::string model, format, expected; table >> model >> format >> expected; ++count)
    EXPECT_EQ(made(model, format_of(format), "baseline"), expected) << model << " " << format;
  EXPECT_GE(count, 21);
}

TEST(Golden, Write) {
  const char* path = std::getenv("FASTSR_WRITE_GOLDEN");
  if (!path) GTEST_SKIP() << "FASTSR_WRITE_GOLDEN is not set";
  std::ofstream table(path);
  std::ifstream names(MODEL_LIST);
  for (std::string model; std::getline(names, model);)
    for (const Format& format : kFormats)
      if (format.name == std::string("rgb8") || model == "annet_x3" || model == "srcnn_915_rgb_x3")
        table << model << " " << format.name << " " << made(model, format, "baseline") << "\n";
}

}  // namespace
