// SPDX-License-Identifier: Apache-2.0
// What the kernels share: half floats, one function per instruction that C++ has no name for, vectors, shared memory.
//
// Device code sees raw pointers and includes no header of the toolkit, so that NVRTC compiles it from the installed
// sources alone. The same files are plain C++ under FASTSR_CUDA_EMU: tests/cuda/cuda_emu.h then gives a host model of
// every function of `namespace instr` and runs the threads of a block as fibers.
#pragma once

namespace fastsr {

using u16 = unsigned short;
using u32 = unsigned int;

#ifndef FASTSR_CUDA_EMU

#define FASTSR_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace instr {

__device__ __forceinline__ float bits_to_float(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ u32 float_to_bits(float v) { return __float_as_uint(v); }

// Two floats rounded to nearest even, `low` in the lower half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

__device__ __forceinline__ u32 pack_fp16(float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

__device__ __forceinline__ float fp16_to_float(u16 v) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v));
  return r;
}

// d += a b for a [16, 16] row major, b [16, 8] column major, summed in fp32. Lane l holds, with g = l / 4 and t = l % 4:
//   a0 a1 a2 a3   (row, k) = (g, 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t + 8), and k + 1 in the upper half
//   b0 b1         (k, column) = (2t, g) (2t + 8, g), and k + 1 in the upper half
//   d0 d1 d2 d3   (row, column) = (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_fp16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8 x 8 matrices of 16-bit numbers from shared memory. Lane l names row l % 8 of matrix l / 8 (16 bytes, aligned)
// and receives of each matrix the pair (row l / 4, columns 2 (l % 4) and one more).
__device__ __forceinline__ void ldmatrix_x4(u32 (&r)[4], const void* row) {
  const u32 at = static_cast<u32>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// Begins to copy 16 bytes into shared memory; where `present` is false they become 0 and `from` is not read. The bytes
// are there for this thread after the wait for their group, for others after a barrier on top of it.
__device__ __forceinline__ void cp_async_16(void* to, const void* from, bool present) {
  const u32 at = static_cast<u32>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(present ? 16 : 0) : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most `kPending` of this thread's groups, the youngest, are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace instr

#endif  // FASTSR_CUDA_EMU

using instr::bits_to_float;
using instr::float_to_bits;

// The types a tensor may have. kBytes each; two of a half type travel in a u32.
struct Bf16 {
  static constexpr int kBytes = 2;
  static __device__ __forceinline__ u32 pack(float low, float high) { return instr::pack_bf16(low, high); }
  static __device__ __forceinline__ float low(u32 pair) { return bits_to_float(pair << 16); }
  static __device__ __forceinline__ float high(u32 pair) { return bits_to_float(pair & 0xffff0000u); }
  static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    instr::mma_bf16(d, a, b0, b1);
  }
  static __device__ __forceinline__ float load(const void* p, long long i) {
    return bits_to_float(static_cast<u32>(static_cast<const u16*>(p)[i]) << 16);
  }
  static __device__ __forceinline__ void store(void* p, long long i, float v) {
    static_cast<u16*>(p)[i] = static_cast<u16>(instr::pack_bf16(v, 0.0f));
  }
};

struct Fp16 {
  static constexpr int kBytes = 2;
  static __device__ __forceinline__ u32 pack(float low, float high) { return instr::pack_fp16(low, high); }
  static __device__ __forceinline__ float low(u32 pair) { return instr::fp16_to_float(static_cast<u16>(pair)); }
  static __device__ __forceinline__ float high(u32 pair) { return instr::fp16_to_float(static_cast<u16>(pair >> 16)); }
  static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    instr::mma_fp16(d, a, b0, b1);
  }
  static __device__ __forceinline__ float load(const void* p, long long i) {
    return instr::fp16_to_float(static_cast<const u16*>(p)[i]);
  }
  static __device__ __forceinline__ void store(void* p, long long i, float v) {
    static_cast<u16*>(p)[i] = static_cast<u16>(instr::pack_fp16(v, 0.0f));
  }
};

struct Fp32 {
  static constexpr int kBytes = 4;
  static __device__ __forceinline__ float load(const void* p, long long i) { return static_cast<const float*>(p)[i]; }
  static __device__ __forceinline__ void store(void* p, long long i, float v) { static_cast<float*>(p)[i] = v; }
};

// kWords 32-bit words that are loaded and stored at once.
template <int kWords>
struct alignas(4 * kWords) Words {
  u32 word[kWords];
};

template <int kWords>
__device__ __forceinline__ Words<kWords> load_words(const void* p) {
  return *static_cast<const Words<kWords>*>(p);
}

template <int kWords>
__device__ __forceinline__ void store_words(void* p, const Words<kWords>& v) {
  *static_cast<Words<kWords>*>(p) = v;
}

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / 32; }

__host__ __device__ constexpr int round_up(int a, int b) { return (a + b - 1) / b * b; }
__host__ __device__ constexpr int max_of(int a, int b) { return a > b ? a : b; }

// Byte offset of 16-byte unit `unit` of row `row` in a shared array of rows of kUnits units. The units of a row are
// permuted so that the same unit of 8 rows that follow each other lies in 8 different bank groups, as ldmatrix needs it
// to read them in one go; a kUnits that is no power of two up to 8 stays as it is and may cost two.
template <int kUnits>
__device__ __forceinline__ int place(int row, int unit) {
  if (kUnits == 8) unit ^= row & 7;
  if (kUnits == 4) unit ^= row >> 1 & 3;
  if (kUnits == 2) unit ^= row >> 2 & 1;
  return (row * kUnits + unit) * 16;
}

}  // namespace fastsr
