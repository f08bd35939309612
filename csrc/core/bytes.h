// SPDX-License-Identifier: Apache-2.0
// Where a model's bytes come from: a file, memory, or the host's own functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace fastsr {

struct Bytes {
  int64_t size;
  // Copies `count` bytes from `offset` on, or throws. Only asked for what lies inside `size`.
  std::function<void(int64_t offset, void* to, size_t count)> read;
};

// A regular file, read where it is asked for. Throws Error(kBadModel) that does not name the file.
Bytes file_bytes(const std::string& path);

// The caller's memory, which must stay until it was read.
Bytes memory_bytes(const void* data, size_t size);

}  // namespace fastsr
