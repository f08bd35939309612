// SPDX-License-Identifier: Apache-2.0
// The promises of fastsr.h.
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "helpers.h"

namespace {

constexpr int kW = 37, kH = 29;
const fastsr_api& sr = fastsr::api();

fastsr::Model& annet() {
  static fastsr::Model model(model_path("annet_x3"));
  return model;
}

TEST(Api, OneTableAVersion) {
  EXPECT_EQ(fastsr_get_api(FASTSR_API_VERSION), &sr);
  EXPECT_EQ(fastsr_get_api(FASTSR_API_VERSION + 1), nullptr);
  EXPECT_EQ(fastsr_get_api(0), nullptr);
  EXPECT_GE(sr.size, sizeof(fastsr_api));
  EXPECT_STRNE(sr.version(), "0");
}

TEST(Api, NullAndWrongSizesAreRefused) {
  fastsr_model* model = nullptr;
  EXPECT_EQ(sr.model_open(nullptr, nullptr, &model), FASTSR_BAD_INPUT);
  EXPECT_EQ(sr.model_open("annet_x3", nullptr, nullptr), FASTSR_BAD_INPUT);
  EXPECT_EQ(sr.model_from_memory(nullptr, 5, nullptr, nullptr, &model), FASTSR_BAD_INPUT);
  EXPECT_EQ(sr.model_from_reader(nullptr, nullptr, nullptr, &model), FASTSR_BAD_INPUT);
  EXPECT_EQ(model, nullptr);
  EXPECT_EQ(sr.model_info(nullptr, nullptr), FASTSR_BAD_INPUT);
  fastsr_model_info info{};  // size is 0
  EXPECT_EQ(sr.model_info(annet().get(), &info), FASTSR_BAD_INPUT);
  EXPECT_NE(std::strstr(sr.message(), "size"), nullptr);
  fastsr_context* context = nullptr;
  EXPECT_EQ(sr.context_create(nullptr, nullptr, &context), FASTSR_BAD_INPUT);
  EXPECT_EQ(sr.context_create(annet().get(), nullptr, nullptr), FASTSR_BAD_INPUT);
  EXPECT_EQ(sr.upscale(nullptr, nullptr, nullptr, nullptr), FASTSR_BAD_INPUT);
  sr.model_release(nullptr);
  sr.context_release(nullptr);
  sr.cancel(nullptr);
}

// A program built with an older header, whose structs are shorter.
TEST(Api, ShorterStructsAreServed) {
  struct {
    size_t size;
    const char* name;
  } old{sizeof old, nullptr};
  unsigned char guard[64];
  std::memset(guard, 0x5a, sizeof guard);
  EXPECT_EQ(sr.model_info(annet().get(), reinterpret_cast<fastsr_model_info*>(&old)), FASTSR_OK);
  EXPECT_STREQ(old.name, "annet_x3");
  EXPECT_EQ(old.size, sizeof old);
  auto given = options(3);
  given.size = offsetof(fastsr_context_options, precision);
  given.precision = 77;  // beyond what the caller says it knows
  EXPECT_EQ(fastsr::Context(annet(), &given).info().threads, 3);
}

TEST(Api, WrongArgumentsAreRefused) {
  auto given = options();
  const auto create = [&] { return status_of([&] { fastsr::Context(annet(), &given); }); };
  given.threads = -1;
  EXPECT_EQ(create(), FASTSR_BAD_INPUT);
  given = options();
  given.isa = "sse9";
  EXPECT_EQ(create(), FASTSR_DEVICE);
  given = options();
  given.precision = 9;
  EXPECT_EQ(create(), FASTSR_BAD_INPUT);
  given = options();
  given.memory_limit = 1000;
  fastsr::Context small(annet(), &given);
  EXPECT_EQ(status_of([&] { upscaled(small, noise(3 * kW * kH), kW, kH, 3); }), FASTSR_LIMIT);

  fastsr::Context context(annet(), 1);
  Bytes from = noise(3 * kW * kH), to(27 * kW * kH);
  const auto run = [&](fastsr_image in, fastsr_image out) { return status_of([&] { context.upscale(in, out); }); };
  const fastsr_image in = fastsr_packed(FASTSR_RGB, kW, kH, from.data());
  const fastsr_image out = fastsr_packed(FASTSR_RGB, 3 * kW, 3 * kH, to.data());
  EXPECT_EQ(run(in, out), FASTSR_OK);
  const auto wrong = [&](auto change) {
    fastsr_image image = in;
    change(image);
    return run(image, out);
  };
  EXPECT_EQ(wrong([](auto& i) { i.width = 0; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.width = kW + 1; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.format = 99; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.format = FASTSR_BGR; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.sample = 9; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.sample = FASTSR_UINT16; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.depth = 12; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.matrix = 5; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(wrong([](auto& i) { i.planes[0] = nullptr; }), FASTSR_BAD_INPUT);
  EXPECT_EQ(run(in, out), FASTSR_OK);
}

TEST(Models, FromPathMemoryAndReader) {
  const Bytes bytes = file(model_path("annet_x3"));
  const auto from_memory = fastsr::Model::from_memory(bytes.data(), bytes.size());
  auto reader = fastsr::sized<fastsr_reader>();
  reader.bytes = bytes.size();
  reader.user = const_cast<Bytes*>(&bytes);
  reader.read = [](void* user, uint64_t offset, void* to, size_t count) -> int32_t {
    std::memcpy(to, static_cast<const Bytes*>(user)->data() + offset, count);
    return 0;
  };
  const auto from_reader = fastsr::Model::from_reader(reader);
  const Bytes image = noise(3 * kW * kH);
  fastsr::Context a(annet(), 2), b(from_memory, 2), c(from_reader, 2);
  const Bytes expected = upscaled(a, image, kW, kH, 3);
  EXPECT_EQ(upscaled(b, image, kW, kH, 3), expected);
  EXPECT_EQ(upscaled(c, image, kW, kH, 3), expected);
  reader.read = [](void*, uint64_t, void*, size_t) -> int32_t { return 12; };
  EXPECT_EQ(status_of([&] { fastsr::Model::from_reader(reader, "mine"); }), FASTSR_BAD_MODEL);
  EXPECT_STREQ(sr.message(), "mine: cannot be read: the host's reader gave 12");
}

TEST(Models, ByName) {
  setenv("FASTSR_MODELS", MODELS, 1);
  const fastsr::Model model("srcnn_915_x2");
  EXPECT_STREQ(model.info().name, "srcnn_915_x2");
  EXPECT_STREQ(model.info().arch, "srcnn");
  EXPECT_EQ(model.info().scale, 2);
  EXPECT_EQ(model.info().channels, 1);
  EXPECT_GT(model.info().radius, 0);
  EXPECT_EQ(status_of([] { fastsr::Model("no_such_model"); }), FASTSR_BAD_MODEL);
  EXPECT_NE(std::strstr(sr.message(), "no_such_model"), nullptr);
  EXPECT_EQ(status_of([] { fastsr::Model("/no/such/file"); }), FASTSR_BAD_MODEL);
  EXPECT_EQ(status_of([] { fastsr::Model(""); }), FASTSR_BAD_MODEL);
  unsetenv("FASTSR_MODELS");
}

TEST(Models, MayBeReleasedBeforeTheirContexts) {
  auto model = std::make_unique<fastsr::Model>(model_path("annet_x3"));
  fastsr::Context context(*model, 2), other(annet(), 2);
  model.reset();
  const Bytes image = noise(3 * kW * kH);
  EXPECT_EQ(upscaled(context, image, kW, kH, 3), upscaled(other, image, kW, kH, 3));
}

TEST(Images, EveryOrderAndStrideIsTheSame) {
  fastsr::Context context(annet(), 2);
  const Bytes rgb = noise(3 * kW * kH), expected = upscaled(context, rgb, kW, kH, 3);
  constexpr size_t kOut = 9 * kW * kH;
  // BGR
  Bytes bgr = rgb, bgr_expected = expected;
  for (Bytes* bytes : {&bgr, &bgr_expected})
    for (size_t i = 0; i < bytes->size(); i += 3) std::swap((*bytes)[i], (*bytes)[i + 2]);
  EXPECT_EQ(upscaled(context, bgr, kW, kH, 3, FASTSR_BGR), bgr_expected);
  // RGBA and BGRA of one alpha, which stays
  for (const bool swapped : {false, true}) {
    Bytes rgba(4 * kW * kH, 200);
    for (size_t i = 0; i < rgb.size(); ++i) rgba[i / 3 * 4 + i % 3] = (swapped ? bgr : rgb)[i];
    const Bytes made = upscaled(context, rgba, kW, kH, 3, swapped ? FASTSR_BGRA : FASTSR_RGBA);
    for (size_t i = 0; i < 3 * kOut; ++i)
      ASSERT_EQ(made[i / 3 * 4 + i % 3], (swapped ? bgr_expected : expected)[i]) << i;
    for (size_t i = 0; i < kOut; ++i) ASSERT_EQ(made[4 * i + 3], 200);
  }
  // Planes
  Bytes planes(rgb.size()), out(3 * kOut);
  for (size_t i = 0; i < rgb.size(); ++i) planes[i % 3 * kW * kH + i / 3] = rgb[i];
  fastsr_image from = fastsr_packed(FASTSR_RGB_PLANES, kW, kH, nullptr);
  fastsr_image to = fastsr_packed(FASTSR_RGB_PLANES, 3 * kW, 3 * kH, nullptr);
  for (int k = 0; k < 3; ++k) {
    from.planes[k] = &planes[static_cast<size_t>(k) * kW * kH];
    to.planes[k] = &out[static_cast<size_t>(k) * kOut];
  }
  context.upscale(from, to);
  for (size_t i = 0; i < 3 * kOut; ++i) ASSERT_EQ(out[i % 3 * kOut + i / 3], expected[i]) << i;
  // Rows from the bottom up, with gaps that are not touched
  constexpr size_t kRow = 3 * kW + 5, kOutRow = 9 * kW + 7;
  Bytes gaps(kRow * kH), out_gaps(kOutRow * 3 * kH, 77);
  for (size_t y = 0; y < kH; ++y) std::memcpy(&gaps[(kH - 1 - y) * kRow], &rgb[y * 3 * kW], 3 * kW);
  from = fastsr_packed(FASTSR_RGB, kW, kH, &gaps[(kH - 1) * kRow]);
  from.strides[0] = -static_cast<int64_t>(kRow);
  to = fastsr_packed(FASTSR_RGB, 3 * kW, 3 * kH, out_gaps.data());
  to.strides[0] = kOutRow;
  context.upscale(from, to);
  for (size_t y = 0; y < 3 * kH; ++y) {
    ASSERT_EQ(std::memcmp(&out_gaps[y * kOutRow], &expected[y * 9 * kW], 9 * kW), 0);
    for (size_t x = 9 * kW; x < kOutRow; ++x) ASSERT_EQ(out_gaps[y * kOutRow + x], 77);
  }
  // 16 bits and float of the same values
  std::vector<uint16_t> wide(rgb.size()), wide_out(3 * kOut);
  std::vector<float> floats(rgb.size()), floats_out(3 * kOut);
  for (size_t i = 0; i < rgb.size(); ++i) {
    wide[i] = static_cast<uint16_t>(rgb[i] * 257);
    floats[i] = static_cast<float>(rgb[i]) / 255;
  }
  from = fastsr_packed(FASTSR_RGB, kW, kH, wide.data());
  to = fastsr_packed(FASTSR_RGB, 3 * kW, 3 * kH, wide_out.data());
  from.sample = to.sample = FASTSR_UINT16;
  context.upscale(from, to);
  from.planes[0] = floats.data();
  to.planes[0] = floats_out.data();
  from.sample = to.sample = FASTSR_FLOAT;
  context.upscale(from, to);
  for (size_t i = 0; i < 3 * kOut; ++i) {
    ASSERT_NEAR(wide_out[i] / 257.0, expected[i], 0.51);
    ASSERT_NEAR(static_cast<double>(floats_out[i]) * 255, expected[i], 0.51);
  }
}

TEST(Images, FloatsMustBeNumbersWithinRange) {
  fastsr::Context context(annet(), 2);
  std::vector<float> from(kW * kH, 0.5f), to(9 * kW * kH);
  fastsr_image in = fastsr_packed(FASTSR_GRAY, kW, kH, from.data());
  fastsr_image out = fastsr_packed(FASTSR_GRAY, 3 * kW, 3 * kH, to.data());
  in.sample = out.sample = FASTSR_FLOAT;
  EXPECT_EQ(status_of([&] { context.upscale(in, out); }), FASTSR_OK);
  from[kW + 3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(status_of([&] { context.upscale(in, out); }), FASTSR_BAD_INPUT);
  EXPECT_NE(std::strstr(sr.message(), "nan at index (1, 3, 0)"), nullptr) << sr.message();
  from[kW + 3] = 255;
  EXPECT_EQ(status_of([&] { context.upscale(in, out); }), FASTSR_BAD_INPUT);
}

// A network on Y runs on the Y plane as it is, whatever holds the chroma.
TEST(Images, YuvLayoutsAgree) {
  fastsr::Context context(annet(), 2);
  constexpr size_t kC = (kW + 1) / 2 * ((kH + 1) / 2), kY = kW * kH;
  constexpr size_t kOutC = (3 * kW + 1) / 2 * ((3 * kH + 1) / 2), kOutY = 9 * kY;
  const Bytes i420 = noise(kY + 2 * kC);
  Bytes i420_out(kOutY + 2 * kOutC), nv12 = i420, nv12_out(i420_out.size());
  for (size_t i = 0; i < 2 * kC; ++i) nv12[kY + i] = i420[kY + i % 2 * kC + i / 2];
  const auto view = [](fastsr_format format, auto& data, int scale) {
    const size_t w = static_cast<size_t>(kW * scale), h = static_cast<size_t>(kH * scale), y = w * h;
    fastsr_image image = fastsr_packed(format, static_cast<int>(w), static_cast<int>(h), data.data());
    image.planes[1] = data.data() + y;
    image.planes[2] = data.data() + y + (w + 1) / 2 * ((h + 1) / 2);
    return image;
  };
  context.upscale(view(FASTSR_YUV420, const_cast<Bytes&>(i420), 1), view(FASTSR_YUV420, i420_out, 3));
  context.upscale(view(FASTSR_NV12, nv12, 1), view(FASTSR_NV12, nv12_out, 3));
  for (size_t i = 0; i < kOutY; ++i) ASSERT_EQ(nv12_out[i], i420_out[i]);
  for (size_t i = 0; i < 2 * kOutC; ++i) ASSERT_EQ(nv12_out[kOutY + i], i420_out[kOutY + i % 2 * kOutC + i / 2]) << i;
  // 10 bits: P010 is yuv420p10 with the samples in the upper bits and chroma in turns.
  std::vector<uint16_t> p10(i420.size()), p10_out(i420_out.size()), p010(i420.size()), p010_out(i420_out.size());
  for (size_t i = 0; i < i420.size(); ++i) p10[i] = static_cast<uint16_t>(i420[i] * 4 + i % 4);
  for (size_t i = 0; i < i420.size(); ++i)
    p010[i] = static_cast<uint16_t>((i < kY ? p10[i] : p10[kY + (i - kY) % 2 * kC + (i - kY) / 2]) << 6);
  fastsr_image from = view(FASTSR_YUV420, p10, 1), to = view(FASTSR_YUV420, p10_out, 3);
  from.sample = to.sample = FASTSR_UINT16;
  from.depth = to.depth = 10;
  context.upscale(from, to);
  context.upscale(view(FASTSR_P010, p010, 1), view(FASTSR_P010, p010_out, 3));
  for (size_t i = 0; i < kOutY; ++i) ASSERT_EQ(p010_out[i] >> 6, p10_out[i]);
  for (size_t i = 0; i < 2 * kOutC; ++i)
    ASSERT_EQ(p010_out[kOutY + i] >> 6, p10_out[kOutY + i % 2 * kOutC + i / 2]) << i;
}

TEST(Contexts, TilesThreadsAndExecutorsGiveTheSame) {
  const Bytes image = noise(3 * kW * kH);
  fastsr::Context plain(annet(), 1);
  const Bytes expected = upscaled(plain, image, kW, kH, 3);
  auto given = options(4);
  given.tile = 16;
  fastsr::Context tiled(annet(), &given);
  EXPECT_EQ(upscaled(tiled, image, kW, kH, 3), expected);
  // All at once; in turns, from the last; only some; none at all.
  const fastsr_executor executors[] = {
      [](void* calls, fastsr_work work, void* job, int32_t count) {
        ++*static_cast<int*>(calls);
        std::vector<std::thread> threads;
        for (int k = 0; k < count; ++k) threads.emplace_back([=] { work(job, k); });
        for (std::thread& thread : threads) thread.join();
      },
      [](void* calls, fastsr_work work, void* job, int32_t count) {
        ++*static_cast<int*>(calls);
        for (int k = count; k-- > 0;) work(job, k);
      },
      [](void* calls, fastsr_work work, void* job, int32_t count) {
        ++*static_cast<int*>(calls);
        work(job, count - 1);
      },
      [](void* calls, fastsr_work, void*, int32_t) { ++*static_cast<int*>(calls); },
  };
  for (fastsr_executor executor : executors) {
    int calls = 0;
    given = options(3);
    given.executor = executor;
    given.executor_user = &calls;
    fastsr::Context context(annet(), &given);
    EXPECT_EQ(upscaled(context, image, kW, kH, 3), expected);
    EXPECT_GT(calls, 0);
  }
}

TEST(Contexts, OfOneModelRunAtTheSameTime) {
  const Bytes image = noise(3 * kW * kH);
  fastsr::Context plain(annet(), 1);
  const Bytes expected = upscaled(plain, image, kW, kH, 3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      fastsr::Context context(annet(), 1 + i % 2);
      for (int n = 0; n < 4; ++n) wrong += upscaled(context, image, kW, kH, 3) != expected;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Contexts, ProgressCancelAndStrangersInOne) {
  fastsr::Context context(annet(), 2);
  constexpr int kSide = 512;
  const Bytes image = noise(3 * kSide * kSide);
  Bytes out(9 * image.size());
  const fastsr_image in = fastsr_packed(FASTSR_RGB, kSide, kSide, const_cast<unsigned char*>(image.data()));
  const fastsr_image to = fastsr_packed(FASTSR_RGB, 3 * kSide, 3 * kSide, out.data());
  double last = 0;
  const std::thread::id caller = std::this_thread::get_id();
  fastsr_status second = FASTSR_OK;
  context.upscale(in, to, [&](double done) {
    EXPECT_EQ(std::this_thread::get_id(), caller);
    EXPECT_GE(done, last);
    EXPECT_LE(done, 1);
    last = done;
    second = sr.upscale(context.get(), &in, &to, nullptr);
    return true;
  });
  EXPECT_GT(last, 0);
  EXPECT_EQ(second, FASTSR_BAD_INPUT);
  EXPECT_EQ(status_of([&] { context.upscale(in, to, [](double) { return false; }); }), FASTSR_STOPPED);
  EXPECT_EQ(status_of([&] {
              context.upscale(in, to, [&](double) {
                context.cancel();
                return true;
              });
            }),
            FASTSR_STOPPED);
  EXPECT_THROW(context.upscale(in, to, [](double) -> bool { throw std::string("mine"); }), std::string);
  context.cancel();  // nothing is going on
  EXPECT_EQ(status_of([&] { context.upscale(in, to); }), FASTSR_OK);
}

TEST(Contexts, MemoryAndLog) {
  std::vector<std::string> lines;
  auto given = options();
  given.log_user = &lines;
  given.log = [](void* user, const char* line) { static_cast<std::vector<std::string>*>(user)->push_back(line); };
  fastsr::Context context(annet(), &given);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("annet_x3"), std::string::npos);
  const uint64_t small = context.memory(fastsr_packed(FASTSR_RGB, 64, 64, nullptr));
  const uint64_t large = context.memory(fastsr_packed(FASTSR_RGB, 640, 640, nullptr));
  EXPECT_GT(small, 30u * 64 * 64);
  EXPECT_GT(large, 30u * 640 * 640);
  EXPECT_LT(large, 1u << 30);
}

// Every file of the fuzzers' corpus is refused as a wrong model, or is a right one.
TEST(Models, WrongFilesAreRefused) {
  int wrong = 0;
  std::ifstream list(CORPUS_LIST);
  for (std::string path; std::getline(list, path);) {
    const fastsr_status status = status_of([&] { fastsr::Model model(path); });
    wrong += status == FASTSR_BAD_MODEL;
    EXPECT_TRUE(status == FASTSR_BAD_MODEL || status == FASTSR_OK) << path << ": " << sr.message();
  }
  EXPECT_GT(wrong, 50);
}

}  // namespace
