// SPDX-License-Identifier: Apache-2.0
// Activations as functions of a vector, for kernels that apply one to what they read. NaN stays NaN: of two operands the
// maximum is the second where one is NaN.
#pragma once

#include "core/kernel.h"
#include "cpu/simd.h"

namespace fastsr {
namespace {

FASTSR_INLINE vf leaky(vf v, vf slope) { return select(greater(v, set1(0.0f)), v, mul(v, slope)); }

struct Same {
  __attribute__((always_inline)) vf operator()(vf v) const { return v; }
};
struct Relu {
  __attribute__((always_inline)) vf operator()(vf v) const { return max(set1(0.0f), v); }
};
struct Leaky {
  vf slope;
  __attribute__((always_inline)) vf operator()(vf v) const { return leaky(v, slope); }
};

// What takes an exponential, of a sum that is complete. Below -87 sigmoid stays at 1.6e-38, and silu at -1.4e-36.
FASTSR_INLINE vf sigmoid(vf v) { return div(set1(1.0f), add(set1(1.0f), exp(sub(set1(0.0f), v)))); }
FASTSR_INLINE vf silu(vf v) { return div(max(set1(-87.0f), v), add(set1(1.0f), exp(sub(set1(0.0f), v)))); }
// tanh(v / 2): near 0 its error is absolute, 2^-24 times about 2.
FASTSR_INLINE vf tanh_of_half(vf v) {
  const vf e = exp(sub(set1(0.0f), v));
  return div(sub(set1(1.0f), e), add(set1(1.0f), e));
}

}  // namespace
}  // namespace fastsr
