// SPDX-License-Identifier: Apache-2.0
// What the C interface's opaque handles are, and how its calls end.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/images.h"
#include "core/modelfile.h"
#include "core/session.h"
#include "core/status.h"
#include "fastsr/fastsr.h"

namespace fastsr {
namespace lib {

// A line for the host.
struct Log {
  fastsr_log function = nullptr;
  void* user = nullptr;
  void operator()(const std::string& line) const {
    if (function) function(user, line.c_str());
  }
};

// A model, shared by its handle and its contexts.
class Model {
 public:
  explicit Model(ModelFile file);

  // The model compiled so; contexts that ask alike share it and its packed weights.
  std::shared_ptr<const Program> program(const Options& options) const;

  const ModelFile file;
  const Graph graph;
  const int64_t radius;

 private:
  struct Compiled {
    Options options;
    std::weak_ptr<const Program> program;
  };
  mutable std::mutex mutex_;  // of what follows
  mutable std::vector<Compiled> compiled_;
  mutable std::shared_ptr<const Program> last_;  // stays, for a host that makes a context per image
};

// A shipped model's file, or `name` itself where it is a path. Throws Error(kBadModel).
std::string locate(const std::string& name);

// The caller's image as the core takes it. Throws Error(kBadInput).
Pixels to_pixels(const fastsr_image& image, const char* what);

class Context {
 public:
  Context(std::shared_ptr<const Model> model, const fastsr_context_options& options);
  void upscale(const fastsr_image& in, const fastsr_image& out, const fastsr_run_options& options);
  uint64_t memory(const fastsr_image& in) const;
  void cancel() { stop_.store(true); }
  const Program& program() const { return *program_; }

 private:
  const std::shared_ptr<const Model> model_;
  const Log log_;
  std::shared_ptr<const Program> program_;
  std::unique_ptr<Executor> executor_;
  Session session_;
  std::atomic<bool> busy_{false}, stop_{false};
  Images images_;
};

// What message() gives; allocates nothing.
void set_message(const char* text);
const char* message();

// Runs `f` so that nothing is thrown out of the library.
template <typename F>
fastsr_status guarded(F f) {
  const auto failed = [](fastsr_status status, const char* text) {
    set_message(text);
    return status;
  };
  set_message("");
  try {
    f();
    return FASTSR_OK;
  } catch (const Error& e) {
    constexpr fastsr_status kStatus[] = {FASTSR_BAD_INPUT, FASTSR_BAD_MODEL, FASTSR_LIMIT, FASTSR_DEVICE,
                                         FASTSR_STOPPED};
    return failed(kStatus[static_cast<int>(e.status())], e.what());
  } catch (const std::bad_alloc&) {
    return failed(FASTSR_NO_MEMORY, "out of memory");
  } catch (const std::exception& e) {
    return failed(FASTSR_INTERNAL, e.what());
  } catch (...) {
    return failed(FASTSR_INTERNAL, "an unknown exception");
  }
}

// A struct of the caller's as this library knows it: what the caller does not know of is 0. Null is all 0.
template <typename T>
T sized(const T* given, const char* what) {
  T known{};
  if (!given) return known;
  if (given->size < sizeof(size_t) || given->size > 4096)
    fail(Status::kBadInput, what, ": size is ", given->size, ", set it to sizeof(", what, ")");
  std::memcpy(&known, given, std::min(sizeof known, given->size));
  return known;
}

}  // namespace lib
}  // namespace fastsr

struct fastsr_model {
  std::shared_ptr<const fastsr::lib::Model> model;
};
struct fastsr_context {
  fastsr::lib::Context context;
};
