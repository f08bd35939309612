// SPDX-License-Identifier: Apache-2.0
#include "core/bytes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>

#include "core/status.h"

namespace fastsr {

namespace {

[[noreturn]] void unreadable(int error) {
  fail(Status::kBadModel, "cannot be read: ", std::generic_category().message(error));
}

}  // namespace

Bytes file_bytes(const std::string& path) {
  if (path.find('\0') != std::string::npos) fail(Status::kBadModel, "cannot be read: the name holds a NUL character");
  // Without O_NONBLOCK, opening a pipe would wait for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) unreadable(errno);
  const std::shared_ptr<const int> file(new int(fd), [](const int* p) {
    ::close(*p);
    delete p;
  });
  struct stat info;
  if (::fstat(fd, &info) != 0) unreadable(errno);
  if (!S_ISREG(info.st_mode)) fail(Status::kBadModel, "not a regular file");
  return {info.st_size, [file](int64_t offset, void* to, size_t count) {
            auto* at = static_cast<unsigned char*>(to);
            while (count > 0) {
              const ssize_t got = ::pread(*file, at, count, offset);
              if (got < 0 && errno == EINTR) continue;
              if (got < 0) unreadable(errno);
              if (got == 0) fail(Status::kBadModel, "was cut while it was read");
              at += got;
              offset += got;
              count -= static_cast<size_t>(got);
            }
          }};
}

Bytes memory_bytes(const void* data, size_t size) {
  return {static_cast<int64_t>(size), [data](int64_t offset, void* to, size_t count) {
            if (count > 0) std::memcpy(to, static_cast<const unsigned char*>(data) + offset, count);
          }};
}

}  // namespace fastsr
