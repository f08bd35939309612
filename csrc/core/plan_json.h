// SPDX-License-Identifier: Apache-2.0
// Plans as JSON, the way model files hold them.
#pragma once

#include <string_view>

#include "core/plan.h"

namespace fastsr {

// The form alone: keys, types, the number of steps. What the ops require of their steps is for check_plan.
// Throws Error(kBadModel).
Plan parse_plan(std::string_view text);

}  // namespace fastsr
