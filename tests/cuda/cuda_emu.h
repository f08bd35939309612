// SPDX-License-Identifier: Apache-2.0
// Runs kernels/cuda/*.cu on the CPU, to test their logic without a GPU:
//     g++ -x c++ -std=c++17 -DFASTSR_CUDA_EMU -include cuda_emu.h kernel.cu
//
// The threads of a block are fibers of one OS thread. A fiber runs until a barrier or a warp collective (a shuffle,
// ldmatrix, mma) and resumes when the others are there; a warp runs as far ahead of the others as barriers let it. Lanes
// and warps go in forward, reverse or random order: code that lacks a barrier then reads what is not written yet, or
// overwrites what is still read, in one order at least. Further
//   - shared memory holds NaN (0xff) when a block begins and has guards behind it,
//   - cp.async poisons its target at once and copies only at the wait for its group, so that a missing wait and a load
//     into a slot that is still read both leave NaN,
//   - mma and ldmatrix are models of the true layouts of fragments; both check that the whole warp takes part and
//     ldmatrix and cp.async that addresses are aligned and inside the block's shared memory,
//   - hopper_emu.h models mbarriers, TMA and wgmma. A fiber that waits for an mbarrier lets others run; what the TMA engine
//     does happens when nobody can run (forward order), the youngest first (reverse) or some time (random).
// A fault ends the launch with an exception that says what and where.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
// A fiber that has ended leaves its last frames marked on its stack.
#define FASTSR_EMU_FRESH(at, bytes) __asan_unpoison_memory_region(at, bytes)
#else
#define FASTSR_EMU_FRESH(at, bytes)
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define FASTSR_DYNAMIC_SHARED(name) unsigned char* const name = emu::block->shared

struct dim3 {
  unsigned x, y, z;
};

namespace emu {

enum Order { kForward, kReverse, kRandom };
// What a fiber waits for. From kWarpBarrier on all live lanes of a warp must wait for the same.
enum Wait { kNothing, kBlockBarrier, kCondition, kWarpBarrier, kShuffle, kLdmatrix, kMma, kWgmma };

constexpr size_t kStack = 128 << 10;
constexpr size_t kGuard = 1024;

struct Copy {
  unsigned char* to;
  const void* from;
  bool present;
};

// d += a b of a lane, under way, with the descriptors of a and b; d holds NaN meanwhile.
struct Product {
  unsigned long long a, b;
  float* d;
  unsigned columns;
  float (*convert)(unsigned short);
};

struct Wgmma {
  std::vector<Product> open;                  // not committed
  std::vector<std::vector<Product>> groups;   // committed, under way
  std::map<float*, std::vector<float>> sums;  // of what is under way
  size_t issued = 0;
  bool fenced = false;
};

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  dim3 index{};
  unsigned lane = 0, warp = 0, turn = 0;
  bool done = false;
  Wait wait = kNothing;
  std::vector<Copy> open;                        // not committed
  std::vector<std::vector<Copy>> groups;         // committed, under way
  std::function<bool()> until;                   // of kCondition
  std::vector<unsigned long long*> initialised;  // mbarriers, not fenced
  Wgmma wgmma;
};

// What the lanes of a warp show each other. Two, taken in turn: a lane may be one collective ahead of another.
struct Exchange {
  alignas(16) unsigned char lane[32][64];
  float a[16][16], b[8][16];  // operands of mma, unpacked; b by column
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Exchange> exchange;
  void* scheduler = nullptr;
  void (*body)(const void*) = nullptr;  // of a thread, and its arguments
  const void* arguments = nullptr;
  dim3 index{}, threads{}, grid{};
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  Order order = kForward;
  unsigned random = 1;
  const char* fault = nullptr;
  std::vector<std::function<void()>> later;  // what the TMA engine has under way
  std::vector<std::vector<std::pair<unsigned long long, unsigned long long>>> products;  // issued, of each warpgroup

  void land(size_t which) {
    const std::function<void()> act = std::move(later[which]);
    later.erase(later.begin() + static_cast<long>(which));
    act();
  }

  size_t live() const {
    size_t n = 0;
    for (const Fiber& f : fibers) n += !f.done;
    return n;
  }

  size_t draw(size_t n) {
    random = random * 1664525u + 1013904223u;
    return (random >> 8) % n;
  }

  void shuffle(size_t* items, size_t n) {
    for (; n > 1; --n) std::swap(items[n - 1], items[draw(n)]);
  }
};

inline thread_local Block* block = nullptr;
inline thread_local Fiber* fiber = nullptr;

extern "C" void fastsr_emu_switch(void** save, void* to);
#if !defined(__x86_64__)
#error "the emulation switches fibers in x86-64 assembly"
#endif
asm(R"(
.text
.weak fastsr_emu_switch
.type fastsr_emu_switch,@function
fastsr_emu_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size fastsr_emu_switch,.-fastsr_emu_switch
)");

__attribute__((no_sanitize("address"))) inline void to_scheduler() {
  fastsr_emu_switch(&fiber->stack_pointer, block->scheduler);
}

__attribute__((no_sanitize("address"))) inline void wait_for(Wait what) {
  fiber->wait = what;
  to_scheduler();
}

// A fault of the running fiber: the scheduler throws, on a stack that can be unwound.
[[noreturn]] inline void fail(const char* what) {
  block->fault = what;
  to_scheduler();
  abort();
}

[[noreturn]] inline void raise_fault(const std::string& what) {
  const dim3& at = block->index;
  throw std::runtime_error(what + " (block " + std::to_string(at.x) + " " + std::to_string(at.y) + " " +
                           std::to_string(at.z) + ")");
}

[[noreturn]] inline void entry() {
  block->body(block->arguments);
  if (!fiber->open.empty() || !fiber->groups.empty()) fail("a thread ends while its cp.async are under way");
  if (!fiber->wgmma.sums.empty()) fail("a thread ends while its wgmma are under way");
  fiber->done = true;
  to_scheduler();
  abort();
}

// Runs the lanes of a warp that wait for nothing, each up to its next wait, then lets go what all of them wait for.
// False if no lane could run.
inline bool step_warp(size_t warp) {
  Block& b = *block;
  const size_t first = warp * 32, lanes = b.fibers.size() - first < 32 ? b.fibers.size() - first : 32;
  size_t order[32];
  for (size_t i = 0; i < lanes; ++i) order[i] = first + (b.order == kReverse ? lanes - 1 - i : i);
  if (b.order == kRandom) b.shuffle(order, lanes);
  bool ran = false;
  for (size_t i = 0; i < lanes; ++i) {
    Fiber& f = b.fibers[order[i]];
    if (f.wait == kCondition && f.until()) f.wait = kNothing;
    if (f.done || f.wait != kNothing) continue;
    fiber = &f;
    fastsr_emu_switch(&b.scheduler, f.stack_pointer);
    if (b.fault) raise_fault(std::string(b.fault) + " in thread " + std::to_string(order[i]));
    ran = true;
  }
  fiber = nullptr;
  size_t live = 0, waiting = 0;
  Wait what = kNothing;
  for (size_t i = 0; i < lanes; ++i) {
    const Fiber& f = b.fibers[first + i];
    live += !f.done;
    if (f.done || f.wait < kWarpBarrier) continue;
    if (what != kNothing && what != f.wait) raise_fault("the lanes of a warp wait for different collectives");
    what = f.wait;
    ++waiting;
  }
  if (waiting && waiting == live) {
    if (live != 32 && what != kWarpBarrier) raise_fault("a collective without all lanes of the warp");
    for (size_t i = 0; i < lanes; ++i) b.fibers[first + i].wait = kNothing;
  }
  return ran;
}

// A warp runs up to its next barrier of the block before another does, as far ahead as it may; in random order warps
// take turns at every collective.
inline void run_block() {
  Block& b = *block;
  const size_t n = b.fibers.size(), warps = (n + 31) / 32;
  for (Fiber& f : b.fibers) {
    f.done = false;
    f.wait = kNothing;
    f.initialised.clear();
    f.wgmma = {};
    FASTSR_EMU_FRESH(f.stack, kStack);
    // What `ret` of the first switch pops: six registers and the entry; 16-byte alignment as after a call.
    void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(f.stack + kStack) & ~uintptr_t(15));
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    f.stack_pointer = top;
  }
  std::vector<size_t> order(warps);
  for (size_t i = 0; i < warps; ++i) order[i] = b.order == kReverse ? warps - 1 - i : i;
  for (;;) {
    bool ran = true;
    while (ran) {
      ran = false;
      if (b.order == kRandom) b.shuffle(order.data(), warps);
      for (size_t warp : order) {
        bool stepped = step_warp(warp);
        ran |= stepped;
        while (stepped && b.order != kRandom) stepped = step_warp(warp);
      }
      // Forward, the engine is as late as can be; in reverse it does the youngest first, one a round.
      if (!b.later.empty() && (ran ? b.order == kReverse || (b.order == kRandom && b.draw(4) == 0) : b.live() > 0)) {
        b.land(b.order == kForward ? 0 : b.order == kReverse ? b.later.size() - 1 : b.draw(b.later.size()));
        ran = true;
      }
    }
    const size_t live = b.live();
    size_t at_barrier = 0;
    for (const Fiber& f : b.fibers) at_barrier += !f.done && f.wait == kBlockBarrier;
    if (!live && !b.later.empty()) raise_fault("a block ends while its copies by TMA are under way");
    if (!live) return;
    if (at_barrier != live) raise_fault("deadlock: threads wait for different barriers, or for what nobody will do");
    if (live != n) raise_fault("__syncthreads after a thread has ended");
    for (Fiber& f : b.fibers) f.wait = kNothing;
  }
}

struct Stacks {
  char* at;
  size_t bytes;

  explicit Stacks(size_t n) : at(nullptr), bytes(n) {
    void* p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::runtime_error("no memory for the stacks of a block");
    at = static_cast<char*>(p);
  }
  Stacks(const Stacks&) = delete;
  ~Stacks() {
    FASTSR_EMU_FRESH(at, bytes);
    munmap(at, bytes);
  }
};

template <class Kernel, class... Args>
void launch(dim3 grid, dim3 threads, size_t shared_bytes, Order order, Kernel kernel, Args... args) {
  Block b;
  b.order = order;
  b.grid = grid;
  b.threads = threads;
  b.shared_bytes = shared_bytes;
  const size_t n = static_cast<size_t>(threads.x) * threads.y * threads.z;
  b.fibers.resize(n);
  b.exchange.resize((n + 31) / 32 * 2);
  b.products.resize((n + 127) / 128);
  std::vector<unsigned char> memory(shared_bytes + kGuard + 128);
  b.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(memory.data()) + 127) & ~uintptr_t(127));
  const Stacks stacks(kStack * n);
  for (size_t i = 0; i < n; ++i) {
    Fiber& f = b.fibers[i];
    f.stack = stacks.at + i * kStack;
    f.lane = static_cast<unsigned>(i % 32);
    f.warp = static_cast<unsigned>(i / 32);
    f.index = {static_cast<unsigned>(i % threads.x), static_cast<unsigned>(i / threads.x % threads.y),
               static_cast<unsigned>(i / threads.x / threads.y)};
  }
  const auto thread = [&] { kernel(args...); };
  b.body = [](const void* p) { (*static_cast<const decltype(thread)*>(p))(); };
  b.arguments = &thread;
  block = &b;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        b.index = {x, y, z};
        memset(b.shared, 0xff, shared_bytes + kGuard);
        for (auto& issued : b.products) issued.clear();
        run_block();
        for (size_t i = 0; i < kGuard; ++i)
          if (b.shared[shared_bytes + i] != 0xff) raise_fault("a write behind the end of shared memory");
      }
  block = nullptr;
}

inline Exchange& exchange() { return block->exchange[fiber->warp * 2 + (fiber->turn & 1)]; }

// Every lane shows `v` and receives what lane `from` shows.
template <class T>
T swap(Wait what, T v, unsigned from) {
  static_assert(sizeof(T) <= 64, "");
  Exchange& e = exchange();
  ++fiber->turn;
  memcpy(e.lane[fiber->lane], &v, sizeof(T));
  wait_for(what);
  T r;
  memcpy(&r, e.lane[from % 32], sizeof(T));
  return r;
}

inline void check_shared(const void* at, size_t bytes) {
  const unsigned char* p = static_cast<const unsigned char*>(at);
  if (reinterpret_cast<uintptr_t>(p) % 16) fail("an address in shared memory that is not aligned to 16 bytes");
  if (p < block->shared || p + bytes > block->shared + block->shared_bytes) fail("an address outside shared memory");
}

}  // namespace emu

#define threadIdx (emu::fiber->index)
#define blockIdx (emu::block->index)
#define blockDim (emu::block->threads)
#define gridDim (emu::block->grid)

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline void __syncthreads() { emu::wait_for(emu::kBlockBarrier); }
inline void __syncwarp(unsigned = ~0u) { emu::wait_for(emu::kWarpBarrier); }
template <class T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return emu::swap(emu::kShuffle, v, emu::fiber->lane ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_up_sync(unsigned, T v, unsigned delta) {
  const unsigned lane = emu::fiber->lane;
  return emu::swap(emu::kShuffle, v, lane >= delta ? lane - delta : lane);
}
inline int atomicAdd(int* p, int v) {
  const int old = *p;
  *p = old + v;
  return old;
}

namespace fastsr {
namespace instr {

inline float bits_to_float(unsigned bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

inline unsigned float_to_bits(float f) {
  unsigned bits;
  memcpy(&bits, &f, 4);
  return bits;
}

inline unsigned to_bf16(float f) {
  if (f != f) return 0x7fffu;
  const unsigned bits = float_to_bits(f);
  return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

// Round to nearest even, as cvt.rn: above the largest half float infinity, below the least normal one subnormals.
inline unsigned to_fp16(float f) {
  const unsigned bits = float_to_bits(f), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7fffu;
  if (size >= 0x477ff000u) return sign | 0x7c00u;
  if (size < 0x38800000u) return sign | static_cast<unsigned>(std::lrint(std::fabs(f) * 0x1p24f));
  return sign | (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13;
}

inline float fp16_to_float(unsigned short v) {
  const unsigned sign = (v & 0x8000u) << 16, size = v & 0x7fffu;
  if (size >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (size & 0x3ffu) << 13);
  const float f = size < 0x400u ? static_cast<float>(size) * 0x1p-24f : bits_to_float((size << 13) + 0x38000000u);
  return sign ? -f : f;
}

inline float bf16_to_float(unsigned short v) { return bits_to_float(static_cast<unsigned>(v) << 16); }

inline unsigned pack_bf16(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }
inline unsigned pack_fp16(float low, float high) { return to_fp16(low) | to_fp16(high) << 16; }

template <class Convert>
void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, const Convert& convert) {
  emu::Exchange& e = emu::exchange();
  ++emu::fiber->turn;
  const unsigned g = emu::fiber->lane / 4, t = emu::fiber->lane % 4;
  for (unsigned i = 0; i < 4; ++i)
    for (unsigned j = 0; j < 2; ++j)
      e.a[g + i % 2 * 8][2 * t + i / 2 * 8 + j] = convert(static_cast<unsigned short>(a[i] >> 16 * j));
  for (unsigned j = 0; j < 2; ++j) {
    e.b[g][2 * t + j] = convert(static_cast<unsigned short>(b0 >> 16 * j));
    e.b[g][2 * t + 8 + j] = convert(static_cast<unsigned short>(b1 >> 16 * j));
  }
  emu::wait_for(emu::kMma);
  float s[4] = {};
  for (unsigned k = 0; k < 16; ++k)
    for (unsigned i = 0; i < 4; ++i) s[i] += e.a[g + i / 2 * 8][k] * e.b[2 * t + i % 2][k];
  for (unsigned i = 0; i < 4; ++i) d[i] += s[i];
}

inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  mma(d, a, b0, b1, bf16_to_float);
}
inline void mma_fp16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  mma(d, a, b0, b1, fp16_to_float);
}

inline void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  emu::check_shared(row, 16);
  emu::Exchange& e = emu::exchange();
  ++emu::fiber->turn;
  const unsigned lane = emu::fiber->lane;
  memcpy(e.lane[lane], &row, sizeof row);
  emu::wait_for(emu::kLdmatrix);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned char* from;
    memcpy(&from, e.lane[i * 8 + lane / 4], sizeof from);
    memcpy(&r[i], from + lane % 4 * 4, 4);
  }
}

inline void cp_async_16(void* to, const void* from, bool present) {
  emu::check_shared(to, 16);
  if (reinterpret_cast<uintptr_t>(from) % 16) emu::fail("cp.async from an address that is not aligned to 16 bytes");
  memset(to, 0xff, 16);
  emu::fiber->open.push_back({static_cast<unsigned char*>(to), from, present});
}

inline void cp_async_commit() {
  emu::fiber->groups.push_back(std::move(emu::fiber->open));
  emu::fiber->open.clear();
}

template <int kPending>
void cp_async_wait() {
  auto& groups = emu::fiber->groups;
  while (groups.size() > kPending) {
    for (const emu::Copy& c : groups.front()) {
      if (c.present) {
        memcpy(c.to, c.from, 16);
      } else {
        memset(c.to, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

}  // namespace instr
}  // namespace fastsr

#include "hopper_emu.h"
