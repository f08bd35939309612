// SPDX-License-Identifier: Apache-2.0
// JSON out of files that nobody vouches for: the standard to the letter, and less.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace fastsr {

using Json = nlohmann::json;

// Parses `text`, an object. Beyond the standard it refuses duplicate keys, integers beyond int64, floats beyond double, a
// byte order mark and more than limits::kJsonDepth levels. Throws Error(kBadModel), which calls the text `what`.
Json parse_json(std::string_view text, const std::string& what);

// Whether `value` is an object with these keys and no others.
bool has_keys(const Json& value, std::initializer_list<const char*> keys);

}  // namespace fastsr
