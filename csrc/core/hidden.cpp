// SPDX-License-Identifier: Apache-2.0
#include "core/hidden.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace fastsr {
namespace {

constexpr int64_t kRows = 16;  // rows of a task

template <typename T>
T load(const unsigned char* at, bool swapped) {
  unsigned char bytes[sizeof(T)];
  std::memcpy(bytes, at, sizeof(T));
  if (swapped) std::reverse(bytes, bytes + sizeof(T));
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

template <typename T>
void store(unsigned char* at, T value, bool swapped) {
  unsigned char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  if (swapped) std::reverse(bytes, bytes + sizeof(T));
  std::memcpy(at, bytes, sizeof(T));
}

unsigned char* sample_at(const Channel& channel, int64_t y, int64_t x) {
  return channel.data + y * channel.row + x * channel.column;
}

int colors_of(const Pixels& pixels) { return channels_of(pixels.colors) - 1; }
const Channel& alpha_of(const Pixels& pixels) { return pixels.channels[colors_of(pixels)]; }

// Calls f with a value of the type of the samples.
template <typename F>
void typed(Sample sample, F f) {
  if (sample == Sample::kU8) return f(static_cast<unsigned char>(0));
  if (sample == Sample::kU16) return f(static_cast<uint16_t>(0));
  return f(0.0f);
}

template <typename T>
void copy_channel(const Channel& from, const Channel& to, int64_t height, int64_t width) {
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) std::memcpy(sample_at(to, y, x), sample_at(from, y, x), sizeof(T));
}

// What is known of a pixel; around the image is a ring of kOutside.
enum Mark : unsigned char { kOutside, kKnown, kHidden, kWaiting };

template <typename T>
T mean(double total, int count) {
  if (std::is_floating_point<T>::value) return static_cast<T>(total / count);
  return static_cast<T>(std::nearbyint(total / count));
}

}  // namespace

bool has_alpha(Colors colors) { return colors == Colors::kGrayAlpha || colors == Colors::kRgba; }

bool has_hidden(const Pixels& pixels, int threads, Executor& executor) {
  std::atomic<bool> found{false};
  typed(pixels.sample, [&](auto zero) {
    using T = decltype(zero);
    const auto look = [&](int64_t i, int) {
      for (int64_t y = i * kRows; y < std::min(pixels.height, (i + 1) * kRows); ++y) {
        if (found.load(std::memory_order_relaxed)) return;
        const unsigned char* at = sample_at(alpha_of(pixels), y, 0);
        bool hidden = false;
        for (int64_t x = 0; x < pixels.width; ++x, at += alpha_of(pixels).column)
          hidden |= load<T>(at, pixels.swapped) == zero;
        if (hidden) found.store(true, std::memory_order_relaxed);
      }
    };
    parallel_for((pixels.height + kRows - 1) / kRows, threads, look, executor);
  });
  return found.load();
}

size_t ColorSpread::bytes() const {
  return marks_.capacity() + (ring_.capacity() + next_.capacity()) * sizeof(int64_t);
}

void ColorSpread::operator()(const Pixels& from, const Pixels& to, int64_t reach) {
  const int64_t h = from.height, w = from.width, stride = w + 2;
  const int colors = colors_of(from);
  marks_.assign(static_cast<size_t>((h + 2) * stride), kOutside);
  ring_.clear();
  const int64_t around[8] = {-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1};
  const auto mark = [&](int64_t place) -> unsigned char& { return marks_[static_cast<size_t>(place)]; };
  typed(from.sample, [&](auto zero) {
    using T = decltype(zero);
    for (int k = 0; k <= colors; ++k) copy_channel<T>(from.channels[k], to.channels[k], h, w);
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x)
        mark((y + 1) * stride + x + 1) =
            load<T>(sample_at(alpha_of(from), y, x), from.swapped) == zero ? kHidden : kKnown;
    for (int64_t y = 0; y < h; ++y)
      for (int64_t x = 0; x < w; ++x) {
        const int64_t place = (y + 1) * stride + x + 1;
        if (mark(place) != kHidden) continue;
        for (const int64_t step : around) {
          if (mark(place + step) != kKnown) continue;
          mark(place) = kWaiting;
          ring_.push_back(place);
          break;
        }
      }
    for (int64_t r = 0; r < reach && !ring_.empty(); ++r) {
      // Of known pixels only, and a ring is known when all of it is made: its order does not matter.
      for (const int64_t place : ring_) {
        const int64_t y = place / stride - 1, x = place % stride - 1;
        for (int k = 0; k < colors; ++k) {
          double total = 0;
          int count = 0;
          for (int dy = -1; dy <= 1; ++dy)
            for (int dx = -1; dx <= 1; ++dx) {
              if (mark(place + dy * stride + dx) != kKnown) continue;
              total += static_cast<double>(load<T>(sample_at(to.channels[k], y + dy, x + dx), from.swapped));
              ++count;
            }
          store(sample_at(to.channels[k], y, x), mean<T>(total, count), from.swapped);
        }
      }
      for (const int64_t place : ring_) mark(place) = kKnown;
      next_.clear();
      for (const int64_t place : ring_)
        for (const int64_t step : around) {
          if (mark(place + step) != kHidden) continue;
          mark(place + step) = kWaiting;
          next_.push_back(place + step);
        }
      std::swap(ring_, next_);
    }
  });
}

void keep_hidden(const Pixels& in, const Pixels& out, int threads, Executor& executor) {
  const int64_t scale = out.height / in.height;
  typed(in.sample, [&](auto zero) {
    using T = decltype(zero);
    const auto rows = [&](int64_t i, int) {
      for (int64_t y = i * kRows; y < std::min(out.height, (i + 1) * kRows); ++y)
        for (int64_t x = 0; x < out.width; ++x) {
          if (load<T>(sample_at(alpha_of(out), y, x), out.swapped) != zero) continue;
          for (int k = 0; k < colors_of(in); ++k)
            store(sample_at(out.channels[k], y, x),
                  load<T>(sample_at(in.channels[k], y / scale, x / scale), in.swapped), out.swapped);
        }
    };
    parallel_for((out.height + kRows - 1) / kRows, threads, rows, executor);
  });
}

}  // namespace fastsr
