// SPDX-License-Identifier: Apache-2.0
//
// fastsr.h for C++17: handles that release themselves, statuses that are thrown. No logic of its own; fastsr.h is the manual.
//
//   fastsr::Model model("annet_x3");
//   fastsr::Context context(model);
//   context.upscale(fastsr_packed(FASTSR_RGB, 640, 360, small), fastsr_packed(FASTSR_RGB, 1920, 1080, large));
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "fastsr.h"

namespace fastsr {

class Error : public std::runtime_error {
 public:
  Error(fastsr_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  fastsr_status status() const noexcept { return status_; }

 private:
  fastsr_status status_;
};

// The library's table. Throws Error where the library is older than this header.
inline const fastsr_api& api() {
  static const fastsr_api* const table = fastsr_get_api(FASTSR_API_VERSION);
  if (!table) throw Error(FASTSR_INTERNAL, "the fastsr library is older than its header");
  return *table;
}

inline void check(fastsr_status status) {
  if (status != FASTSR_OK) throw Error(status, api().message());
}

// An options struct with nothing set but its size.
template <typename T>
T sized() {
  T made{};
  made.size = sizeof made;
  return made;
}

class Model {
 public:
  // A path, or the name of a shipped model.
  explicit Model(const std::string& name, const fastsr_model_options* options = nullptr) {
    fastsr_model* made = nullptr;
    check(api().model_open(name.c_str(), options, &made));
    handle_.reset(made);
  }
  static Model from_memory(const void* data, size_t bytes, const std::string& name = "",
                           const fastsr_model_options* options = nullptr) {
    fastsr_model* made = nullptr;
    check(api().model_from_memory(data, bytes, name.c_str(), options, &made));
    return Model(made);
  }
  static Model from_reader(const fastsr_reader& reader, const std::string& name = "",
                           const fastsr_model_options* options = nullptr) {
    fastsr_model* made = nullptr;
    check(api().model_from_reader(&reader, name.c_str(), options, &made));
    return Model(made);
  }

  fastsr_model_info info() const {
    auto made = sized<fastsr_model_info>();
    check(api().model_info(get(), &made));
    return made;
  }
  int scale() const { return info().scale; }
  const fastsr_model* get() const noexcept { return handle_.get(); }

 private:
  explicit Model(fastsr_model* handle) : handle_(handle) {}
  struct Release {
    void operator()(fastsr_model* model) const noexcept { api().model_release(model); }
  };
  std::unique_ptr<fastsr_model, Release> handle_;
};

class Context {
 public:
  explicit Context(const Model& model, const fastsr_context_options* options = nullptr) {
    fastsr_context* made = nullptr;
    check(api().context_create(model.get(), options, &made));
    handle_.reset(made);
  }
  Context(const Model& model, int threads) {
    auto options = sized<fastsr_context_options>();
    options.threads = threads;
    *this = Context(model, &options);
  }

  void upscale(const fastsr_image& in, const fastsr_image& out, const fastsr_run_options* options = nullptr) {
    check(api().upscale(get(), &in, &out, options));
  }
  // `progress` is given how much is done and returns whether to go on; Error(FASTSR_STOPPED) follows where it does not.
  // What it throws stops the run and is thrown here.
  void upscale(const fastsr_image& in, const fastsr_image& out, const std::function<bool(double)>& progress) {
    struct Call {
      const std::function<bool(double)>& progress;
      std::exception_ptr thrown;
    } call{progress, nullptr};
    auto options = sized<fastsr_run_options>();
    options.user = &call;
    options.progress = [](void* user, double done) -> int32_t {
      auto* const c = static_cast<Call*>(user);
      try {
        return c->progress(done) ? 0 : 1;
      } catch (...) {
        c->thrown = std::current_exception();
        return 1;
      }
    };
    const fastsr_status status = api().upscale(get(), &in, &out, &options);
    if (call.thrown) std::rethrow_exception(call.thrown);
    check(status);
  }

  void cancel() noexcept { api().cancel(get()); }
  fastsr_context_info info() const {
    auto made = sized<fastsr_context_info>();
    check(api().context_info(get(), &made));
    return made;
  }
  uint64_t memory(const fastsr_image& in) const {
    uint64_t bytes = 0;
    check(api().memory(get(), &in, &bytes));
    return bytes;
  }
  fastsr_context* get() const noexcept { return handle_.get(); }

 private:
  struct Release {
    void operator()(fastsr_context* context) const noexcept { api().context_release(context); }
  };
  std::unique_ptr<fastsr_context, Release> handle_;
};

}  // namespace fastsr
