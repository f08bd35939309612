// SPDX-License-Identifier: Apache-2.0
#include "core/platform.h"
#include "lib/handles.h"

#if !defined(FASTSR_MODELS_FOLDER)  // where `cmake --install` puts the shipped models
#define FASTSR_MODELS_FOLDER ""
#endif

namespace fastsr {
namespace lib {

namespace {

constexpr size_t kCompiled = 64;  // ways of compiling a model that are remembered

bool same(const Options& a, const Options& b) {
  return a.threads == b.threads && a.tile == b.tile && a.memory_limit == b.memory_limit && a.isa == b.isa &&
         a.bf16 == b.bf16;
}

bool is_name(const std::string& text) {
  return !text.empty() &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == std::string::npos;
}

}  // namespace

Model::Model(ModelFile given)
    : file(std::move(given)), graph(check_plan(file.plan, file.weights)), radius(fastsr::radius(graph)) {
  const int64_t channels = graph.values[0].channels;
  if (graph.inputs != 1 || (channels != 1 && channels != 3) || graph.extent(graph.out(), 1, 1).channels != channels)
    fail(Status::kBadModel, "a network of ", graph.inputs, " inputs and ", channels, " channels does not take images");
}

std::shared_ptr<const Program> Model::program(const Options& options) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto gone = [](const Compiled& c) { return c.program.expired(); };
  compiled_.erase(std::remove_if(compiled_.begin(), compiled_.end(), gone), compiled_.end());
  for (const Compiled& c : compiled_)
    if (same(c.options, options))
      if (auto found = c.program.lock()) return found;
  last_ = std::make_shared<const Program>(compile(graph, options));
  if (compiled_.size() < kCompiled) compiled_.push_back({options, last_});
  return last_;
}

std::string locate(const std::string& name) {
  if (!is_name(name) || platform::is_file(name)) return name;
  const std::string own = platform::own_folder();
  // Beside an installed library, and in a wheel.
  const std::string folders[] = {platform::environment("FASTSR_MODELS"),
                                 own.empty() ? "" : own + "/../share/fastsr/models",
                                 own.empty() ? "" : own + "/../../share/fastsr/models",
                                 own.empty() ? "" : own + "/../weights", FASTSR_MODELS_FOLDER};
  std::string looked;
  for (const std::string& folder : folders) {
    if (folder.empty()) continue;
    const std::string path = folder + "/" + name + ".safetensors";
    if (platform::is_file(path)) return path;
    looked += (looked.empty() ? "" : ", ") + folder;
  }
  fail(Status::kBadModel, "there is no model '", name, "' in ", looked,
       ": give a path, or set FASTSR_MODELS to the folder of models");
}

}  // namespace lib
}  // namespace fastsr
