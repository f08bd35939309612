// SPDX-License-Identifier: Apache-2.0
// What a kernel is: one op's implementation for one ISA. Plain data only (see csrc/cpu/simd.h for why).
#pragma once

#include "core/tensor.h"

namespace fastsr {

enum class Border : int { kZero = 0, kReplicate = 1, kSymmetric = 2 };
// How a convolution is computed where there is a choice; kFastest: by the kernel's estimate.
enum class Choice : int { kFastest, kDirect, kColumns, kTiles };
enum class Activation : int { kNone = 0, kRelu = 1, kLeakyRelu = 2 };

struct TensorRef {
  const float* data;  // C-contiguous
  int rank;
  int64_t shape[4];
};

// Outputs that a kernel computes together, as Winograd's: blocks of rows x columns at absolute multiples of these plus
// y, x. What a rectangle reads covers whole blocks.
struct Blocks {
  int64_t rows = 1, columns = 1, y = 0, x = 0;
};

// The numbers of one step, parsed and checked once by the op's rule (csrc/ops/<op>.cpp).
struct Spec {
  int64_t inputs;  // 1, or 2 with a residual
  int64_t channels_in, channels_out;
  int64_t scale;     // resize_bicubic: factor; anchored_regression: stride s
  int64_t kernel;    // conv2d: k; anchored_regression: side f of the feature filters
  int64_t patch;     // anchored_regression: side m of a patch
  int64_t features;  // anchored_regression: n1
  int64_t atoms;     // anchored_regression: A
  Blocks blocks;     // set by the session as the kernel wants it
  Border border;
  Activation activation, input_activation;  // conv2d: of the sum, of what is read
  bool sum_inside;                          // conv2d: the residual is added before the activation
  bool bf16;                                // set by the session: products of bfloat16, summed in fp32
  // Set by the session: values kept as pairs of bfloat16. Row k of such a view has channel 2 k in the low half of a lane
  // and 2 k + 1 in the high half (0 where there is none): half as many channels of floats for everyone but kernels.
  bool pairs_in, pairs_residual, pairs_out;
  Choice choice;  // set by the session: for tests, which hold the estimate to the clock
  float slope;
  TensorRef weights[3];  // conv2d: w, b (data may be null); anchored_regression: filters, atoms, projections
};

struct Args {
  const Spec* spec;
  const void* packed;  // what pack wrote, 64-byte aligned
  // in[0].rect is exactly what the rule's `needs` gives for out.rect, border already filled in (see streams); in[1] is the
  // residual, in[1].rect == out.rect or larger. Rows of an input may be read up to 64 floats past their end.
  const View* in;
  View out;       // write every pixel of out.rect and nothing else
  Extent extent;  // full size of the output value
  void* scratch;  // scratch_bytes(spec, out.rect) bytes, 64-byte aligned, contents undefined
  bool large;     // the whole output is more than the caches hold: writing it past them is faster
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
  // The size of blocks; null: 1 x 1.
  Blocks (*blocks)(const Spec&) = nullptr;
  // Whether in[0] is read once only, so that it need not stay in L2, and what lies outside of in[0].rect counts as zero,
  // so that no border need be made. Null: no.
  bool (*streams)(const Spec&) = nullptr;
  // Which of the kernel's ways a step takes, for people. Null: it has one.
  const char* (*way)(const Spec&) = nullptr;
  // Whether a step would be of bfloat16 products, if they are allowed (Spec::bf16 may be set). Null: no.
  bool (*bf16)(const Spec&) = nullptr;
  // Whether a step, of bfloat16 products, takes and makes values as pairs where the session says so. Null: no.
  bool (*pairs)(const Spec&) = nullptr;
};

}  // namespace fastsr
