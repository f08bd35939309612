// SPDX-License-Identifier: Apache-2.0
// What a kernel is: one op's implementation for one ISA. Plain data only (see csrc/cpu/simd.h for why).
#pragma once

#include "core/tensor.h"

namespace fastsr {

enum class Border : int { kZero = 0, kReplicate = 1, kSymmetric = 2 };
// Those from kSilu on take an exponential. kGate is conv2d's own: (t + residual) (sigmoid(t) - 1/2).
enum class Activation : int { kNone, kRelu, kLeakyRelu, kSilu, kSigmoid, kTanh, kGate };
// How a convolution is computed where there is a choice; kFastest: by the kernel's estimate.
enum class Algorithm : int { kFastest, kDirect, kColumns, kTiles, kTiles6 };

struct TensorRef {
  const float* data;  // C-contiguous; null where only the shape is known
  int rank;           // 0: there is no such tensor
  int64_t shape[4];
};

// Outputs that a kernel computes together, as Winograd's: rows x columns at absolute multiples of these plus y, x. What
// a rectangle reads covers whole blocks.
struct Blocks {
  int64_t rows = 1, columns = 1, y = 0, x = 0;
};

// An op's own numbers: the struct of csrc/ops/<op>.h, which alone knows what lies in here.
struct Params {
  alignas(8) unsigned char bytes[64];
};

// Declares NAME(spec): the numbers of type T in a Spec.
#define FASTSR_PARAMS(T, NAME)                                                           \
  static_assert(sizeof(T) <= sizeof(Params), "csrc/core/kernel.h: Params is too small"); \
  static inline __attribute__((always_inline)) const T& NAME(const Spec& spec) {         \
    return *reinterpret_cast<const T*>(spec.params.bytes);                               \
  }                                                                                      \
  static inline __attribute__((always_inline)) T& NAME(Spec& spec) { return *reinterpret_cast<T*>(spec.params.bytes); }

constexpr int kMaxInputs = 8;

// One step: what its op's rule parsed, then what the compiler decided.
struct Spec {
  int64_t inputs;
  int64_t joined = 1;   // the first so many of them are one, their channels following each other
  int64_t channels_in;  // of those together
  int64_t channels_out;
  Params params;
  TensorRef weights[3];
  // Decided by the compiler.
  Blocks blocks;
  bool bf16;  // products of bfloat16, summed in fp32
  // Values kept as pairs of bfloat16. Row k of such a view has channel 2 k in the low half of a lane and 2 k + 1 in the
  // high half (0 where there is none): half as many channels of floats for everyone but kernels.
  // Where inputs are joined, a pair is of two channels that follow each other there, too.
  bool pairs_in[kMaxInputs], pairs_out;
  Algorithm algorithm;  // for tests, which hold the estimate to the clock
};

struct Args {
  const Spec* spec;
  const void* packed;  // what pack wrote, 64-byte aligned
  // in[k].rect is what the rule's `needs` gives for out.rect. Where that reaches outside of the image it shows the border
  // there, or it is clipped to the image: inputs of the same place, and those that the kernel streams (see below).
  // Rows of an input may be read up to 64 floats past their end.
  const View* in;
  View out;       // write every pixel of out.rect and nothing else
  void* scratch;  // scratch_bytes(spec, in[0].rect, out.rect) bytes, 64-byte aligned, contents undefined
  bool large;     // the whole output is more than the caches hold: writing it past them is faster
};

// Every pixel's value must depend on its absolute position only, never on the rectangle, so that the result
// is bit-identical for every tile and thread count.
struct Kernel {
  const char* op;
  const char* isa;
  size_t (*packed_bytes)(const Spec&);
  void (*pack)(const Spec&, void* packed);
  // Bytes of scratch for rectangles of this size, wherever they lie: never less for a larger one.
  size_t (*scratch_bytes)(const Spec&, const Rect& in, const Rect& out);
  void (*run)(const Args&);
  // Time for an output rectangle in multiply-adds, recomputed halo, idle lanes and misses of its scratch and weights
  // included: what the compiler compares tile sizes by. That inputs and output stay in L2 is the compiler's care.
  int64_t (*work)(const Spec&, const Rect& out);
  // The size of blocks; null: 1 x 1.
  Blocks (*blocks)(const Spec&) = nullptr;
  // Whether windows are read once only, so that they need not stay in L2, and what lies outside of their rect counts as
  // zero, so that no border need be made. Null: no.
  bool (*streams)(const Spec&) = nullptr;
  // Which of the kernel's algorithms a step takes, for people. Null: it has one.
  const char* (*algorithm)(const Spec&) = nullptr;
  // Whether a step would be of bfloat16 products, if they are allowed (Spec::bf16 may be set). Null: no.
  bool (*bf16)(const Spec&) = nullptr;
  // Whether a step, of bfloat16 products, takes and makes values as pairs where the compiler says so. Null: no.
  bool (*pairs)(const Spec&) = nullptr;
  // A number for the order in which pack writes: steps of the same tensors and number share what is packed. Null: 0, it
  // depends on the tensors and the ISA alone.
  int64_t (*packing)(const Spec&) = nullptr;
};

}  // namespace fastsr
