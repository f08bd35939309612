// SPDX-License-Identifier: Apache-2.0
#include "core/isa.h"
#include "core/pool.h"
#include "lib/handles.h"

namespace fastsr {
namespace lib {

namespace {

// The host's threads.
class HostExecutor : public Executor {
 public:
  HostExecutor(fastsr_executor function, void* user) : function_(function), user_(user) {}
  void run(int count, FunctionRef<void(int)> work) override {
    const fastsr_work each = [](void* job, int32_t worker) { (*static_cast<FunctionRef<void(int)>*>(job))(worker); };
    function_(user_, each, &work, count);
  }

 private:
  const fastsr_executor function_;
  void* const user_;
};

Options to_options(const fastsr_context_options& given) {
  if (given.threads < 0 || given.threads > kMostThreads)
    fail(Status::kBadInput, "threads is ", given.threads, ", expected 0 to ", kMostThreads);
  if (given.tile < 0 || given.memory_limit < 0) fail(Status::kBadInput, "tile and memory_limit must not be negative");
  if (given.precision != FASTSR_FP32 && given.precision != FASTSR_BF16)
    fail(Status::kBadInput, "precision ", given.precision, " is not one of fastsr_precision");
  Options options;
  options.threads = given.threads ? given.threads : default_threads();
  options.tile = given.tile;
  options.memory_limit = given.memory_limit;
  options.isa = choose_isa(given.isa ? given.isa : "");
  options.bf16 = given.precision == FASTSR_BF16;
  return options;
}

std::unique_ptr<Executor> to_executor(const fastsr_context_options& given) {
  if (given.executor) return std::make_unique<HostExecutor>(given.executor, given.executor_user);
  return std::make_unique<Pool>();
}

// Marks a context as in use.
class Use {
 public:
  explicit Use(std::atomic<bool>& busy) : busy_(busy) {
    if (busy.exchange(true))
      fail(Status::kBadInput, "the context is in use by another thread: have one for each that upscales");
  }
  ~Use() { busy_.store(false); }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

 private:
  std::atomic<bool>& busy_;
};

}  // namespace

Context::Context(std::shared_ptr<const Model> model, const fastsr_context_options& options)
    : model_(std::move(model)),
      log_{options.log, options.log_user},
      program_(model_->program(to_options(options))),
      executor_(to_executor(options)),
      session_(program_),
      images_(program_) {
  log_("fastsr: " + model_->file.metadata.at("name") + " on " + program_->isa + ", " +
       std::to_string(program_->threads) + " threads");
}

void Context::upscale(const fastsr_image& in, const fastsr_image& out, const fastsr_run_options& options) {
  const Use use(busy_);
  stop_.store(false);
  const Pixels from = to_pixels(in, "in"), to = to_pixels(out, "out");
  check_pixels(from, to, program_->graph.scale);
  if (in.format != out.format || from.sample != to.sample || from.levels != to.levels)
    fail(Status::kBadInput, "the output's format and samples must be the input's");
  BadValue bad{};
  if (!options.trusted && !check_values(from, false, program_->threads, program_->isa, &bad, *executor_)) {
    std::ostringstream where;
    where << "(" << bad.y << ", " << bad.x << ", " << bad.channel << ")";
    fail(Status::kBadInput, describe(bad, where.str()));
  }
  const auto go_on = [&](double done) {
    return !stop_.load() && !(options.progress && options.progress(options.user, done) != 0);
  };
  if (!images_.run(session_, from, to, std::cref(go_on), *executor_))
    fail(Status::kBadModel, "model '", model_->file.metadata.at("name"),
         "' gave values that are not finite for this image");
}

uint64_t Context::memory(const fastsr_image& in) const { return images_.memory(to_pixels(in, "in")); }

}  // namespace lib
}  // namespace fastsr
