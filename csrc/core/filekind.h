// SPDX-License-Identifier: Apache-2.0
// What a file that is no model file seems to be, so that the message can say what to do.
#pragma once

#include <string_view>

namespace fastsr {

// A kind with its article and, for those where there is something to do, a hint ("a ZIP archive ...: ..."); nullptr where
// the first bytes say nothing. 512 bytes are enough.
const char* guess_kind(std::string_view first_bytes);

}  // namespace fastsr
