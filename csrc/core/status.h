// SPDX-License-Identifier: Apache-2.0
// The core's one exception: what was wrong, with which value, what to do. Becomes a FastsrError in Python.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace fastsr {

enum class Status { kBadInput, kBadModel, kLimit, kDevice, kStopped };

class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& what) : std::runtime_error(what), status_(status) {}
  Status status() const { return status_; }

 private:
  Status status_;
};

// Text of unknown origin as a message may show it: control characters, marks that turn the direction of writing and bytes
// that are no UTF-8 become escapes such as \x1b, and what is longer than `most` bytes is cut.
std::string printable(std::string_view text, size_t most = 200);

// fail(Status::kBadModel, "step ", i, ": ...") joins its arguments and throws. Literals are ours and stand as they are;
// every std::string may have come out of a file and goes through `printable`, so that a message is always one clean line.
template <typename... Parts>
[[noreturn]] void fail(Status status, const Parts&... parts) {
  std::ostringstream text;
  const auto add = [&text](const auto& part) {
    using Part = std::decay_t<decltype(part)>;
    if constexpr (std::is_same_v<Part, std::string> || std::is_same_v<Part, std::string_view>)
      text << printable(part);
    else
      text << part;
  };
  (add(parts), ...);
  throw Error(status, text.str());
}

}  // namespace fastsr
