// SPDX-License-Identifier: Apache-2.0
#include "core/status.h"

#include <cstdint>
#include <cstdio>

namespace fastsr {

namespace {

// One character of UTF-8: its code point and its length in bytes, which is 0 where the text holds none.
struct Character {
  uint32_t code;
  size_t length;
};

Character decode(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return {first, 0};
  uint32_t code = first & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {first, 0};
    code = code << 6 | (byte(i) & 0x3f);
  }
  static constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return code < kLeast[length] || code > 0x10ffff || surrogate ? Character{first, 0} : Character{code, length};
}

// Characters that do something to a terminal or to the text around them instead of being seen.
bool acts(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0xfeff;
}

}  // namespace

std::string printable(std::string_view text, size_t most) {
  std::string shown;
  while (!text.empty()) {
    const Character c = decode(text);
    const size_t length = c.length ? c.length : 1;
    std::string next(text.substr(0, length));
    if (!c.length || acts(c.code)) {
      char escape[16];
      std::snprintf(escape, sizeof escape, c.code > 0xff ? "\\u%04x" : "\\x%02x", static_cast<unsigned>(c.code));
      next = escape;
    }
    if (shown.size() + next.size() > most) return shown + "...";
    shown += next;
    text.remove_prefix(length);
  }
  return shown;
}

}  // namespace fastsr
