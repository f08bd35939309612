// SPDX-License-Identifier: Apache-2.0
#include "core/isa.h"

#include <algorithm>
#include <cstdlib>

#include "core/platform.h"
#include "core/rule.h"
#include "core/status.h"

namespace fastsr {

namespace {

#if defined(__x86_64__)
bool cpu_has_amx() {
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (d >> 22 & 1) && (d >> 24 & 1);  // AMX-BF16, AMX-TILE
}
#endif

bool cpu_has(const std::string& isa) {
#if defined(__x86_64__)
  // Every CPU with both has F16C too, which older compilers cannot be asked about.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (isa == "avx2") return avx2;
  if (isa == "avx512") return avx512;
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  if (isa == "avx512bf16") return bf16;
  if (isa == "amx") return bf16 && cpu_has_amx() && platform::allow_amx_tiles();
#endif
#if defined(__aarch64__)
  if (isa == "neon") return true;
#endif
  return isa == "baseline";
}

bool built_for(const std::string& isa) {
  return std::any_of(kKernels, kKernels + kKernelCount, [&](const Kernel* k) { return isa == k->isa; });
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

const std::vector<std::string>& known_isas() {
  static const std::vector<std::string> isas{"baseline", "neon", "avx2", "avx512", "avx512bf16", "amx"};
  return isas;
}

const std::vector<std::string>& usable_isas() {
  static const std::vector<std::string> isas = [] {
    std::vector<std::string> found;
    for (const std::string& isa : known_isas())
      if (built_for(isa) && cpu_has(isa)) found.push_back(isa);
    return found;
  }();
  return isas;
}

std::string choose_isa(const std::string& forced) {
  const char* variable = std::getenv("FASTSR_CPU_ISA");
  const std::string wanted = !forced.empty() ? forced : variable ? variable : "";
  if (wanted.empty()) return usable_isas().back();
  if (!contains(known_isas(), wanted))
    fail(Status::kDevice, "FASTSR_CPU_ISA=", wanted, " is not one of ", join(known_isas()));
  if (!contains(usable_isas(), wanted))
    fail(Status::kDevice, "FASTSR_CPU_ISA=", wanted, " is not available on this CPU, which has ", join(usable_isas()));
  return wanted;
}

const Kernel& find_kernel(const std::string& op, const std::string& isa) {
  const std::vector<std::string>& isas = known_isas();
  for (auto it = std::find(isas.rbegin(), isas.rend(), isa); it != isas.rend(); ++it)
    for (int i = 0; i < kKernelCount; ++i)
      if (op == kKernels[i]->op && *it == kKernels[i]->isa) return *kKernels[i];
  fail(Status::kDevice, "op '", op, "' has no CPU kernel for ", isa);
}

}  // namespace fastsr
