// SPDX-License-Identifier: Apache-2.0
#include "core/bytes.h"

#include <cstring>
#include <memory>

#include "core/platform.h"

namespace fastsr {

Bytes file_bytes(const std::string& path) {
  const auto file = std::make_shared<const platform::File>(path);
  return {file->size(), [file](int64_t offset, void* to, size_t count) { file->read(offset, to, count); }};
}

Bytes memory_bytes(const void* data, size_t size) {
  return {static_cast<int64_t>(size), [data](int64_t offset, void* to, size_t count) {
            if (count > 0) std::memcpy(to, static_cast<const unsigned char*>(data) + offset, count);
          }};
}

}  // namespace fastsr
