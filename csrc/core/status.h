// SPDX-License-Identifier: Apache-2.0
// The core's one exception: what was wrong, with which value, what to do. Becomes a FastsrError in Python.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fastsr {

enum class Status { kBadInput, kBadModel, kLimit, kDevice, kStopped };

class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& what) : std::runtime_error(what), status_(status) {}
  Status status() const { return status_; }

 private:
  Status status_;
};

// fail(Status::kBadModel, "step ", i, ": ...") joins its arguments and throws.
template <typename... Parts>
[[noreturn]] void fail(Status status, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(status, text.str());
}

}  // namespace fastsr
