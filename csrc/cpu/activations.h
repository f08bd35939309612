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

}  // namespace
}  // namespace fastsr
