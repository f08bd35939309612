// SPDX-License-Identifier: Apache-2.0
// libFuzzer's entry to the reader of model files: any bytes are a model that keeps its promises, or an Error of one line.
// Build with -DFASTSR_FUZZ=ON and clang; CONTRIBUTING.md says how to run it.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "core/limits.h"
#include "core/modelfile.h"
#include "core/status.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

// Everything that the reader promises of what it gives is looked at, so that ASan sees memory that is too short.
void check(const fastsr::ModelFile& model) {
  for (const auto& [name, tensor] : model.weights) {
    int64_t count = 1;
    for (int i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
    require(count > 0 && count <= fastsr::limits::kWeightBytes / 4, "tensors are not empty and within the limit");
    require(reinterpret_cast<uintptr_t>(tensor.data) % 64 == 0, "tensors are aligned");
    for (int64_t i = 0; i < count; ++i) require(std::isfinite(tensor.data[i]), "weights are finite");
  }
  for (const fastsr::Step& step : model.plan.steps)
    for (const auto& [role, tensor] : step.weights)
      require(model.weights.count(tensor) == 1, "tensors of steps are there");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    check(fastsr::read_model(fastsr::memory_bytes(data, size), "fuzz"));
  } catch (const fastsr::Error& e) {
    const std::string message = e.what();
    require(e.status() == fastsr::Status::kBadModel, "a wrong file is kBadModel");
    require(message.rfind("fuzz: ", 0) == 0 && message.size() < 2000, "messages begin with the name and are short");
    for (unsigned char c : message) require(c >= 0x20 && c != 0x7f, "messages hold no control characters");
  }
  return 0;
}
