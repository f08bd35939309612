// SPDX-License-Identifier: Apache-2.0
#include "core/probe.h"

#include <chrono>

#include "core/isa.h"
#include "core/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastsr {
namespace {

constexpr int kChains = 12;  // enough independent sums to hide an FMA's latency on two ports

#if defined(__x86_64__)
__attribute__((target("avx512f"))) float burn512(long rounds) {
  __m512 s[kChains];
  for (int i = 0; i < kChains; ++i) s[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (long n = 0; n < rounds; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) s[i] = _mm512_fmadd_ps(s[i], a, b);
  float total = 0;
  for (int i = 0; i < kChains; ++i) total += _mm512_reduce_add_ps(s[i]);
  return total;
}

__attribute__((target("avx2,fma"))) float burn256(long rounds) {
  __m256 s[kChains];
  for (int i = 0; i < kChains; ++i) s[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (long n = 0; n < rounds; ++n)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) s[i] = _mm256_fmadd_ps(s[i], a, b);
  float total = 0;
  for (int i = 0; i < kChains; ++i) total += s[i][0];
  return total;
}
#endif

float burn_any(long rounds) {
  float s[kChains];
  for (int i = 0; i < kChains; ++i) s[i] = static_cast<float>(i);
  for (long n = 0; n < rounds; ++n)
    for (int i = 0; i < kChains; ++i) s[i] = s[i] * 0.999f + 0.001f;
  float total = 0;
  for (int i = 0; i < kChains; ++i) total += s[i];
  return total;
}

}  // namespace

double peak_gflops(int threads, double seconds) {
  using clock = std::chrono::steady_clock;
  if (threads <= 0) threads = default_threads();
  const std::string isa = choose_isa("");
  float (*burn)(long) = burn_any;
  int lanes = 1;
#if defined(__x86_64__)
  if (isa == "avx2") burn = burn256, lanes = 8;
  if (isa == "avx512" || isa == "avx512bf16" || isa == "amx") burn = burn512, lanes = 16;
#endif
  constexpr long kRounds = 400000;  // some milliseconds: waking the threads must not count
  double best = 0;
  volatile float sink = 0;
  const auto begin = clock::now();
  do {
    const auto t0 = clock::now();
    parallel_for(threads, threads, [&](int64_t, int) { sink = sink + burn(kRounds); });
    const double s = std::chrono::duration<double>(clock::now() - t0).count();
    const double rate = 2.0 * kChains * lanes * static_cast<double>(kRounds) * threads / s / 1e9;
    best = rate > best ? rate : best;
  } while (std::chrono::duration<double>(clock::now() - begin).count() < seconds);
  return best;
}

}  // namespace fastsr
