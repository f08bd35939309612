// SPDX-License-Identifier: Apache-2.0
// The instruction sets kernels were built for, which of them this CPU has, and which one is used.
#pragma once

#include <string>
#include <vector>

#include "core/kernel.h"

namespace fastsr {

// Every ISA kernels may be built for, best last.
const std::vector<std::string>& known_isas();
// Those this CPU can run and this library holds, best last. Detected once.
const std::vector<std::string>& usable_isas();
// `forced` if not empty, else FASTSR_CPU_ISA if set, else the best. Throws Error(kDevice) with the list.
std::string choose_isa(const std::string& forced);
// The op's kernel for `isa`, or for the best ISA below it that has one. Throws Error(kDevice).
const Kernel& find_kernel(const std::string& op, const std::string& isa);

}  // namespace fastsr
