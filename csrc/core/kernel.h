// SPDX-License-Identifier: Apache-2.0
// What a kernel is: one op's implementation for one ISA. Plain data only (see csrc/cpu/simd.h for why).
#pragma once

#include "core/tensor.h"

namespace fastsr {

enum class Border : int { kZero = 0, kReplicate = 1, kSymmetric = 2 };
enum class Activation : int { kNone = 0, kRelu = 1, kLeakyRelu = 2 };

struct TensorRef {
  const float* data;  // C-contiguous
  int rank;
  int64_t shape[4];
};

// The numbers of one step, parsed and checked once by the op's rule (csrc/ops/<op>.cpp).
struct Spec {
  int64_t inputs;  // 1, or 2 with a residual
  int64_t channels_in, channels_out;
  int64_t scale;              // resize_bicubic: factor; anchored_regression: stride s
  int64_t kernel;             // conv2d: k; anchored_regression: side f of the feature filters
  int64_t patch;              // anchored_regression: side m of a patch
  int64_t features;           // anchored_regression: n1
  int64_t atoms;              // anchored_regression: A
  int64_t block_rows, phase;  // the kernel's block of rows and where blocks begin: set by the session, 1 and 0 before
  Border border;
  Activation activation;
  float slope;
  TensorRef weights[3];  // conv2d: w, b (data may be null); anchored_regression: filters, atoms, projections
};

struct Args {
  const Spec* spec;
  const void* packed;  // what pack wrote, 64-byte aligned
  // in[0].rect is exactly what the rule's `needs` gives for out.rect, border already filled in; in[1] is the
  // residual, in[1].rect == out.rect or larger. Rows of an input may be read up to 64 floats past their end.
  const View* in;
  View out;       // write every pixel of out.rect and nothing else
  Extent extent;  // full size of the output value
  void* scratch;  // scratch_bytes(spec, out.rect) bytes, 64-byte aligned, contents undefined
};

// Every pixel's value must depend on its absolute position only, never on the rectangle, so that the result
// is bit-identical for every tile and thread count.
struct Kernel {
  const char* op;
  const char* isa;
  size_t (*packed_bytes)(const Spec&);
  void (*pack)(const Spec&, void* packed);
  size_t (*scratch_bytes)(const Spec&, const Rect& out);
  void (*run)(const Args&);
  // Time for an output rectangle in multiply-adds, recomputed halo, idle lanes and misses of its scratch and weights
  // included: what the session compares tile sizes by. That inputs and output stay in L2 is the session's care.
  int64_t (*work)(const Spec&, const Rect& out);
  // Rows of output that are computed together, at absolute multiples plus spec.phase; in[0] then covers whole blocks.
  // Null: 1.
  int64_t (*block_rows)(const Spec&);
};

}  // namespace fastsr
