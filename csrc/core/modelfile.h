// SPDX-License-Identifier: Apache-2.0
// The one reader of model files (docs/model-files.md), for every host. Nothing in a file is believed before it is checked,
// and nothing is allocated before its size was compared with core/limits.h.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "core/bytes.h"
#include "core/plan.h"

namespace fastsr {

using Metadata = std::map<std::string, std::string>;

// A model file in memory. What `weights` points at lives in `storage`; every tensor begins at a 64-byte boundary.
struct ModelFile {
  Metadata metadata;
  Plan plan;
  Weights weights;
  std::shared_ptr<const float> storage;
};

// All of a file, checked: its form, its numbers, that tensors and plan fit each other and every step its op. Throws
// Error(kBadModel), one line, which `name` begins where it is not empty; what `bytes.read` throws passes through.
ModelFile read_model(const Bytes& bytes, const std::string& name = "");
ModelFile read_model(const std::string& path);

// The metadata alone, without a look at the weights: for listing.
Metadata read_metadata(const std::string& path);

}  // namespace fastsr
