// SPDX-License-Identifier: Apache-2.0
// Plans between Python and C++, as the plain data of fastsr.plan.Plan.to_dict.
#pragma once

#include <pybind11/pybind11.h>

#include "core/plan.h"

// Raise ModelError for values that C++ cannot hold: integers beyond 64 bits, text with a lone surrogate, lists.
fastsr::Step to_step(const pybind11::dict& data);
fastsr::Plan to_plan(const pybind11::dict& data);

pybind11::dict from_plan(const fastsr::Plan& plan);
