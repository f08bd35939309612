// SPDX-License-Identifier: Apache-2.0
// Images to test with. tests/test_library.py makes the same ones.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fastsr/fastsr.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

using Bytes = std::vector<unsigned char>;

// Noise from a seed: the upper bytes of Knuth's generator.
inline Bytes noise(size_t count, uint32_t seed = 1) {
  Bytes made(count);
  for (unsigned char& byte : made) {
    seed = seed * 1664525u + 1013904223u;
    byte = static_cast<unsigned char>(seed >> 24);
  }
  return made;
}

// FNV-1a.
inline uint64_t digest(const Bytes& bytes) {
  uint64_t hash = 14695981039346656037u;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211u;
  return hash;
}

inline Bytes file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream.good()) << path;
  return Bytes(std::istreambuf_iterator<char>(stream), {});
}

inline std::string model_path(const std::string& name) { return std::string(MODELS) + "/" + name + ".safetensors"; }

inline fastsr_context_options options(int threads = 2) {
  auto made = fastsr::sized<fastsr_context_options>();
  made.threads = threads;
  return made;
}

// What upscaling does to a dense RGB image.
inline Bytes upscaled(fastsr::Context& context, const Bytes& from, int w, int h, int scale,
                      fastsr_format format = FASTSR_RGB) {
  Bytes to(from.size() * static_cast<size_t>(scale * scale));
  context.upscale(fastsr_packed(format, w, h, const_cast<unsigned char*>(from.data())),
                  fastsr_packed(format, w * scale, h * scale, to.data()));
  return to;
}

template <typename F>
fastsr_status status_of(F f) {
  try {
    f();
  } catch (const fastsr::Error& e) {
    EXPECT_NE(std::string(e.what()), "");
    return e.status();
  }
  return FASTSR_OK;
}
