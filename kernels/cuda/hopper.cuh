// SPDX-License-Identifier: Apache-2.0
// The instructions of compute capability 9.0 (sm_90a), each a function that tests/cuda/hopper_emu.h models: mbarriers,
// boxes of a tensor copied by the TMA engine, and products of a warpgroup.
#pragma once

#include "common.cuh"

namespace fastsr {

using u64 = unsigned long long;

// What cuTensorMapEncodeTiled writes (kernels/cuda/tensormap.py): a kernel takes it as const __grid_constant__.
struct alignas(128) TensorMap {
  u64 opaque[16];
};

constexpr int kSwizzleRow = 128;     // bytes of a row of a matrix in shared memory, 64 numbers
constexpr int kSwizzleBlock = 1024;  // eight of them, after which the pattern comes again: what such matrices begin at

#ifndef FASTSR_CUDA_EMU

namespace instr {

// As instructions take it: bytes from the begin of the window of shared memory.
__device__ __forceinline__ u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// A phase of the barrier ends when `arrivals` have come and, of bytes announced, all. Its first phase has parity 0.
__device__ __forceinline__ void mbarrier_init(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(u64* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Announces bytes that copies will bring, then arrives.
__device__ __forceinline__ void mbarrier_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Until the phase of that parity has ended: on a fresh barrier parity 1 does not wait.
__device__ __forceinline__ void mbarrier_wait(u64* barrier, u32 parity) {
  u32 ended;
  do {
    asm volatile(
        "{\n\t.reg .pred ended;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, ended;\n\t}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!ended);
}

// What this thread wrote to shared memory, barriers included, comes before later accesses of the TMA engine.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Begins to copy the map's box from coordinates (innermost first; what lies outside the tensor becomes 0) to shared
// memory, and counts its bytes, all of them, at the barrier.
__device__ __forceinline__ void tensor_box(void* to, const TensorMap& map, u64* barrier, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
      : "memory");
}

__device__ __forceinline__ void tensor_box(void* to, const TensorMap& map, u64* barrier, int c0, int c1, int c2,
                                           int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// Before the first product of a group: the accumulators are as this thread left them.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until at most `kPending` groups of products, the youngest, are under way.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Nothing that reads or writes the accumulators moves across.
template <int kCount>
__device__ __forceinline__ void wgmma_keep(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The registers of a thread from here on, for all four warps of a warpgroup. `more` waits until others gave theirs back.
template <int kRegisters>
__device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Begins d += a b for a [64, 16] and b [16, columns], both in shared memory with their 16 numbers in a row. The four
// warps of a warpgroup issue it together; warp w has rows 16 w on, and of them lane l = 4 g + t holds in
//   d[4 j], d[4 j + 1], d[4 j + 2], d[4 j + 3]    (row, column) = (g, 8j + 2t) (g, 8j + 2t + 1) (g + 8, 8j + 2t) and + 1
#define FASTSR_R0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, "
#define FASTSR_R(t) \
  "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define FASTSR_R32 FASTSR_R0 FASTSR_R(1) FASTSR_R(2) "%30, %31"
#define FASTSR_R64 FASTSR_R0 FASTSR_R(1) FASTSR_R(2) FASTSR_R(3) FASTSR_R(4) FASTSR_R(5) "%60, %61, %62, %63"
#define FASTSR_R128                                                                                         \
  FASTSR_R0 FASTSR_R(1) FASTSR_R(2) FASTSR_R(3) FASTSR_R(4) FASTSR_R(5) FASTSR_R(6) FASTSR_R(7) FASTSR_R(8) \
      FASTSR_R(9) FASTSR_R(10) FASTSR_R(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define FASTSR_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FASTSR_D16(i) FASTSR_D4(i), FASTSR_D4(i + 4), FASTSR_D4(i + 8), FASTSR_D4(i + 12)
#define FASTSR_D32(i) FASTSR_D16(i), FASTSR_D16(i + 16)
#define FASTSR_D64(i) FASTSR_D32(i), FASTSR_D32(i + 32)
#define FASTSR_D128(i) FASTSR_D64(i), FASTSR_D64(i + 64)
#define FASTSR_WGMMA(name, type, columns, count, a_at, b_at)                                                \
  __device__ __forceinline__ void name(float (&d)[count], u64 a, u64 b) {                                   \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type " {" FASTSR_R##count \
                 "}, %" #a_at ", %" #b_at ", 1, 1, 1, 0, 0;"                                                \
                 : FASTSR_D##count(0)                                                                       \
                 : "l"(a), "l"(b)                                                                           \
                 : "memory");                                                                               \
  }
FASTSR_WGMMA(wgmma_bf16, "bf16", 64, 32, 32, 33)
FASTSR_WGMMA(wgmma_bf16, "bf16", 128, 64, 64, 65)
FASTSR_WGMMA(wgmma_bf16, "bf16", 256, 128, 128, 129)
FASTSR_WGMMA(wgmma_fp16, "f16", 64, 32, 32, 33)
FASTSR_WGMMA(wgmma_fp16, "f16", 128, 64, 64, 65)
FASTSR_WGMMA(wgmma_fp16, "f16", 256, 128, 128, 129)

}  // namespace instr

#endif  // FASTSR_CUDA_EMU

template <int kCount>
__device__ __forceinline__ void wgmma(Bf16, float (&d)[kCount], u64 a, u64 b) {
  instr::wgmma_bf16(d, a, b);
}

template <int kCount>
__device__ __forceinline__ void wgmma(Fp16, float (&d)[kCount], u64 a, u64 b) {
  instr::wgmma_fp16(d, a, b);
}

// The descriptor of a matrix of rows of kSwizzleRow bytes that lie one after another from `at`, as a box of 64 numbers
// and 128-byte swizzle has them: address / 16 in bits 0 to 13, bytes between groups of eight rows / 16 in bits 32 to 45,
// the swizzle in bits 62 and 63 (1: 128 bytes). Bits 16 to 29 mean nothing there. Adding moves the address: 32 bytes to
// the next 16 numbers of all rows, 1024 to the next eight rows. PTX ISA, "Matrix Descriptor Format".
__device__ __forceinline__ u64 matrix(const void* at) {
  return (instr::shared_address(at) & 0x3ffff) >> 4 | 1ull << 16 | static_cast<u64>(kSwizzleBlock >> 4) << 32 |
         1ull << 62;
}

__device__ __forceinline__ u64 moved(u64 matrix, int bytes) { return matrix + static_cast<u64>(bytes >> 4); }

// The slot of a ring that comes next, and the parity of the phase in which it is filled.
template <int kSlots>
struct Turn {
  int slot = 0;
  u32 parity = 0;

  __device__ __forceinline__ void advance() {
    if (++slot == kSlots) slot = 0, parity ^= 1;
  }
  __device__ __forceinline__ int before() const { return slot == 0 ? kSlots - 1 : slot - 1; }
};

}  // namespace fastsr
