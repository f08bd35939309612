// SPDX-License-Identifier: Apache-2.0
// nv12_threads [MODEL]: NV12 frames, as decoders and cameras give them, from several threads. All share one model; each has
// a context of its own with one thread, which is the fastest way to use all CPUs where there are frames enough.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fastsr/fastsr.hpp>
#include <string>
#include <thread>
#include <vector>

namespace {

// A frame whose rows are longer than its width, as a decoder's are.
struct Frame {
  static constexpr int kAlign = 64;
  int width, height, row;
  std::vector<unsigned char> data;

  Frame(int w, int h)
      : width(w), height(h), row((w + kAlign - 1) / kAlign * kAlign), data(size_t(row) * (h + (h + 1) / 2)) {}
  fastsr_image view() {
    fastsr_image image = fastsr_packed(FASTSR_NV12, width, height, data.data());
    image.strides[0] = image.strides[1] = row;
    image.planes[1] = data.data() + size_t(row) * height;
    return image;
  }
};

// Something to look at: a wave that moves.
void draw(Frame& frame, int number) {
  for (size_t i = 0; i < frame.data.size(); ++i) {
    const int x = int(i % size_t(frame.row)), y = int(i / size_t(frame.row));
    frame.data[i] = static_cast<unsigned char>(128 + (x * 3 + y * 5 + number * 7) % 97 - 48);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const fastsr::Model model(argc > 1 ? argv[1] : "annet_x3");
  constexpr int kWidth = 320, kHeight = 180, kFrames = 24;
  const int threads = std::max(2, int(std::thread::hardware_concurrency()));
  std::atomic<int> next{0}, failed{0};
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i)
    workers.emplace_back([&] {
      try {
        fastsr::Context context(model, 1);
        Frame small(kWidth, kHeight), large(kWidth * model.scale(), kHeight * model.scale());
        for (int number; (number = next++) < kFrames;) {
          draw(small, number);
          context.upscale(small.view(), large.view());
        }
      } catch (const std::exception& e) {
        std::fprintf(stderr, "nv12_threads: %s\n", e.what());
        failed = 1;
      }
    });
  for (std::thread& worker : workers) worker.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%d frames of %dx%d by %d threads: %.1f per second\n", kFrames, kWidth, kHeight, threads,
              kFrames / seconds);
  return failed;
} catch (const std::exception& e) {
  std::fprintf(stderr, "nv12_threads: %s\n", e.what());
  return 1;
}
