// SPDX-License-Identifier: Apache-2.0
// A call with an image like the one before allocates nothing, on any thread: malloc and its like are counted.
#include <dlfcn.h>
#include <errno.h>

#include <atomic>
#include <new>

#include "helpers.h"

namespace {
std::atomic<int> g_count{0};
}

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t bytes) { return ++g_count, __libc_malloc(bytes); }
void* calloc(size_t n, size_t bytes) { return ++g_count, __libc_calloc(n, bytes); }
void* realloc(void* p, size_t bytes) { return ++g_count, __libc_realloc(p, bytes); }
void* aligned_alloc(size_t align, size_t bytes) { return ++g_count, __libc_memalign(align, bytes); }
void* memalign(size_t align, size_t bytes) { return ++g_count, __libc_memalign(align, bytes); }
int posix_memalign(void** p, size_t align, size_t bytes) {
  ++g_count;
  *p = __libc_memalign(align, bytes);
  return *p ? 0 : ENOMEM;
}
}

void* operator new(size_t bytes) {
  void* p = malloc(bytes);
  if (!p) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace {

int allocations(const std::string& name, fastsr_format format, fastsr_sample sample, int threads) {
  constexpr int kW = 96, kH = 72;
  const fastsr::Model model(model_path(name));
  const int s = model.scale();
  fastsr::Context context(model, threads);
  Bytes from = noise(16 * kW * kH), to(from.size() * static_cast<size_t>(s * s));
  const auto view = [&](Bytes& bytes, int w, int h) {
    fastsr_image image = fastsr_packed(format, w, h, bytes.data());
    image.sample = sample;
    image.planes[1] = bytes.data() + 2 * w * h;
    image.planes[2] = bytes.data() + 4 * w * h;
    return image;
  };
  if (sample == FASTSR_FLOAT) std::fill(from.begin(), from.end(), 0);
  auto run = fastsr::sized<fastsr_run_options>();
  run.progress = [](void*, double) -> int32_t { return 0; };
  const fastsr_image in = view(from, kW, kH), out = view(to, kW * s, kH * s);
  // Which thread does what is left to chance: warm until all have done everything.
  for (int i = 0; i < 4; ++i) fastsr::check(fastsr::api().upscale(context.get(), &in, &out, &run));
  const int before = g_count;
  for (int i = 0; i < 3; ++i) fastsr::check(fastsr::api().upscale(context.get(), &in, &out, &run));
  return g_count - before;
}

TEST(Allocations, AreCounted) {
  const int before = g_count;
  Bytes some(1000);
  EXPECT_GT(g_count, before);
}

TEST(Allocations, NoneOnceWarm) {
  for (const int threads : {1, 3}) {
    EXPECT_EQ(allocations("annet_x3", FASTSR_RGB, FASTSR_UINT8, threads), 0) << threads;
    EXPECT_EQ(allocations("annet_x3", FASTSR_RGBA, FASTSR_FLOAT, threads), 0) << threads;
    EXPECT_EQ(allocations("annet_x3", FASTSR_NV12, FASTSR_UINT8, threads), 0) << threads;
    EXPECT_EQ(allocations("srcnn_915_rgb_x3", FASTSR_RGB, FASTSR_UINT8, threads), 0) << threads;
    EXPECT_EQ(allocations("srcnn_915_rgb_x3", FASTSR_YUV420, FASTSR_UINT8, threads), 0) << threads;
    EXPECT_EQ(allocations("crnet_b_small_x2", FASTSR_RGB, FASTSR_UINT8, threads), 0) << threads;
  }
}

}  // namespace
