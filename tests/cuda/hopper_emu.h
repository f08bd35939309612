// SPDX-License-Identifier: Apache-2.0
// Models of the instructions of kernels/cuda/hopper.cuh, included by cuda_emu.h: what the PTX ISA says they do, at the
// latest moment it allows.
//   - An mbarrier is 8 bytes of shared memory: phase, arrivals expected and pending, bytes pending. It is refused before
//     its initialisation and, by TMA, before the fence that follows that.
//   - A copy by TMA poisons its target at once and lands when the engine gets to it (Block::later): in any order, with the
//     128-byte swizzle and zeros outside the tensor; then it counts its bytes at the barrier.
//   - A product of a warpgroup reads its descriptors, shared memory and registers when the wait for its group completes;
//     until no product of an accumulator is under way it holds NaN. All warps of a warpgroup must issue the same.
// What a kernel reads of shared memory by descriptor or as an mbarrier it names by its address in a window that begins
// kWindow bytes before the block's dynamic part: no more aligned than the declaration says.
#pragma once

namespace emu {

constexpr unsigned kWindow = 1024 + 128;
constexpr unsigned kNaN = ~0u;

// A fault in a fiber or in the scheduler.
[[noreturn]] inline void wrong(const char* what) {
  if (fiber) fail(what);
  raise_fault(what);
}

struct Barrier {
  enum State { kInitialised = 1, kFenced = 2 };
  unsigned state, phase, expected, pending;
  int bytes;

  static Barrier load(const unsigned long long* at) {
    const unsigned char* p = reinterpret_cast<const unsigned char*>(at);
    if (reinterpret_cast<uintptr_t>(p) % 8) wrong("an mbarrier that is not aligned to 8 bytes");
    if (p < block->shared || p + 8 > block->shared + block->shared_bytes) wrong("an mbarrier outside shared memory");
    unsigned long long v;
    memcpy(&v, at, 8);
    Barrier b;
    b.state = v & 3;
    b.phase = v >> 2 & 1;
    b.expected = v >> 3 & 0xfffff;
    b.pending = v >> 23 & 0xfffff;
    b.bytes = static_cast<int>(v >> 43) - (1 << 20);
    if (b.state != kInitialised && b.state != kFenced) wrong("an mbarrier that is not initialised");
    return b;
  }

  void store(unsigned long long* at) const {
    if (bytes <= -(1 << 20) || bytes >= 1 << 20) wrong("an mbarrier counts more bytes than it can");
    const unsigned long long v = state | phase << 2 | static_cast<unsigned long long>(expected) << 3 |
                                 static_cast<unsigned long long>(pending) << 23 |
                                 static_cast<unsigned long long>(bytes + (1 << 20)) << 43;
    memcpy(at, &v, 8);
  }

  void end_phase() {
    if (pending || bytes) return;
    phase ^= 1;
    pending = expected;
  }
};

// What tests/cuda/conftest.py writes in the place of cuTensorMapEncodeTiled.
struct Map {
  unsigned long long magic;
  const unsigned char* base;
  unsigned rank, swizzle;  // as the driver numbers it, 3: 128 bytes
  unsigned long long size[4], stride[4];
  unsigned box[4];
};
static_assert(sizeof(Map) == 104, "fits into a tensor map");
constexpr unsigned long long kMapMagic = 0x464153545352ull;

// Bytes from the window's begin -> memory.
inline unsigned char* in_window(unsigned address, size_t bytes) {
  if (address < kWindow || address - kWindow + bytes > block->shared_bytes) wrong("an address outside shared memory");
  return block->shared + (address - kWindow);
}

inline unsigned swizzled(unsigned address) { return address ^ (address >> 7 & 7) << 4; }

inline void land(const Map& map, unsigned to, unsigned long long* barrier, const int (&at)[4]) {
  unsigned offset = 0;
  for (unsigned i3 = 0; i3 < map.box[3]; ++i3)
    for (unsigned i2 = 0; i2 < map.box[2]; ++i2)
      for (unsigned i1 = 0; i1 < map.box[1]; ++i1)
        for (unsigned i0 = 0; i0 < map.box[0]; ++i0, offset += 2) {
          const unsigned i[4] = {i0, i1, i2, i3};
          unsigned long long from = 0;
          bool inside = true;
          for (unsigned d = 0; d < map.rank; ++d) {
            const long long c = static_cast<long long>(at[d]) + i[d];
            inside = inside && c >= 0 && c < static_cast<long long>(map.size[d]);
            from += static_cast<unsigned long long>(c) * map.stride[d];
          }
          unsigned char* p = in_window(map.swizzle == 3 ? swizzled(to + offset) : to + offset, 2);
          if (inside) {
            memcpy(p, map.base + from, 2);
          } else {
            memset(p, 0, 2);
          }
        }
  Barrier b = Barrier::load(barrier);
  b.bytes -= static_cast<int>(offset);
  b.end_phase();
  b.store(barrier);
}

// Row `row` of the matrix of a descriptor: 16 numbers, two units of 16 bytes that the swizzle moves each by itself.
inline void row_of(const Product& p, unsigned long long matrix, unsigned row, float (&out)[16]) {
  if (matrix >> 62 != 1) fail("wgmma: only the 128-byte swizzle has a model");
  if (matrix >> 46 & 0xffff) fail("wgmma: a base offset, or bits that must be 0");
  const unsigned start = static_cast<unsigned>(matrix & 0x3fff) << 4;
  const unsigned groups = static_cast<unsigned>(matrix >> 32 & 0x3fff) << 4;  // of eight rows, bytes apart
  if (start % 1024 + 32 > 128) fail("wgmma: a matrix that does not begin where the swizzle does");
  for (unsigned unit = 0; unit < 2; ++unit) {
    unsigned short v[8];
    memcpy(v, in_window(swizzled(start + row / 8 * groups + row % 8 * 128 + unit * 16), 16), 16);
    for (unsigned k = 0; k < 8; ++k) out[8 * unit + k] = p.convert(v[k]);
  }
}

inline void multiply(const Product& p) {
  const unsigned lane = fiber->lane, row = fiber->warp % 4 * 16 + lane / 4;
  std::vector<float>& sums = fiber->wgmma.sums.at(p.d);
  float a[2][16], b[16];
  for (unsigned i = 0; i < 2; ++i) row_of(p, p.a, row + 8 * i, a[i]);
  for (unsigned j = 0; j < p.columns / 8; ++j)
    for (unsigned c = 0; c < 2; ++c) {
      row_of(p, p.b, 8 * j + lane % 4 * 2 + c, b);
      for (unsigned i = 0; i < 2; ++i) {
        float s = 0;
        for (unsigned k = 0; k < 16; ++k) s += a[i][k] * b[k];
        sums[4 * j + 2 * i + c] += s;
      }
    }
}

}  // namespace emu

namespace fastsr {
struct TensorMap;

namespace instr {

inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(static_cast<const unsigned char*>(p) - emu::block->shared) + emu::kWindow;
}

inline void mbarrier_init(unsigned long long* barrier, unsigned arrivals) {
  emu::Barrier b = {emu::Barrier::kInitialised, 0, arrivals, arrivals, 0};
  b.store(barrier);
  emu::Barrier::load(barrier);  // checks the address
  emu::fiber->initialised.push_back(barrier);
}

inline void fence_async_proxy() {
  for (unsigned long long* barrier : emu::fiber->initialised) {
    emu::Barrier b = emu::Barrier::load(barrier);
    b.state = emu::Barrier::kFenced;
    b.store(barrier);
  }
  emu::fiber->initialised.clear();
}

inline void mbarrier_expect(unsigned long long* barrier, unsigned bytes) {
  emu::Barrier b = emu::Barrier::load(barrier);
  if (!b.pending) emu::fail("more arrivals at an mbarrier than it expects");
  b.bytes += static_cast<int>(bytes);
  --b.pending;
  b.end_phase();
  b.store(barrier);
}

inline void mbarrier_arrive(unsigned long long* barrier) { mbarrier_expect(barrier, 0); }

inline void mbarrier_wait(unsigned long long* barrier, unsigned parity) {
  const auto ended = [=] { return emu::Barrier::load(barrier).phase != parity; };
  if (parity > 1) emu::fail("a parity that is neither 0 nor 1");
  if (ended()) return;
  emu::fiber->until = ended;
  emu::wait_for(emu::kCondition);
}

inline void box(void* to, const TensorMap& tensor_map, unsigned long long* barrier, unsigned rank, const int (&at)[4]) {
  emu::Map map;
  memcpy(&map, &tensor_map, sizeof map);
  if (map.magic != emu::kMapMagic) emu::fail("no tensor map");
  if (map.rank != rank) emu::fail("a copy by TMA of another rank than its map");
  if (emu::Barrier::load(barrier).state != emu::Barrier::kFenced) emu::fail("an mbarrier used by TMA without a fence");
  const unsigned address = shared_address(to);
  if (address % 1024) emu::fail("a copy by TMA to where the swizzle does not begin");
  const int at_[4] = {at[0], at[1], at[2], at[3]};
  const size_t bytes = size_t(2) * map.box[0] * map.box[1] * map.box[2] * map.box[3];
  memset(emu::in_window(address, bytes), 0xff, bytes);
  emu::block->later.push_back([=] { emu::land(map, address, barrier, at_); });
}

inline void tensor_box(void* to, const TensorMap& map, unsigned long long* barrier, int c0, int c1) {
  box(to, map, barrier, 2, {c0, c1, 0, 0});
}

inline void tensor_box(void* to, const TensorMap& map, unsigned long long* barrier, int c0, int c1, int c2, int c3) {
  box(to, map, barrier, 4, {c0, c1, c2, c3});
}

template <int kRegisters>
void registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256, "what setmaxnreg takes");
  emu::wait_for(emu::kWarpBarrier);
}
template <int kRegisters>
void fewer_registers() {
  registers<kRegisters>();
}
template <int kRegisters>
void more_registers() {
  registers<kRegisters>();
}

inline void wgmma_fence() { emu::fiber->wgmma.fenced = true; }

template <int kCount>
void wgmma(float (&d)[kCount], unsigned long long a, unsigned long long b, float (*convert)(unsigned short)) {
  emu::Wgmma& mine = emu::fiber->wgmma;
  if (!mine.fenced) emu::fail("wgmma without the fence before its group");
  auto& issued = emu::block->products[emu::fiber->warp / 4];
  if (mine.issued == issued.size()) issued.push_back({a, b});
  if (issued[mine.issued++] != std::make_pair(a, b)) emu::fail("the warps of a warpgroup issue different wgmma");
  if (mine.sums.emplace(d, std::vector<float>(d, d + kCount)).second)
    for (float& v : d) memcpy(&v, &emu::kNaN, 4);
  mine.open.push_back({a, b, d, 2 * kCount, convert});
}

template <int kCount>
void wgmma_bf16(float (&d)[kCount], unsigned long long a, unsigned long long b) {
  wgmma(d, a, b, bf16_to_float);
}
template <int kCount>
void wgmma_fp16(float (&d)[kCount], unsigned long long a, unsigned long long b) {
  wgmma(d, a, b, fp16_to_float);
}

inline void wgmma_commit() {
  emu::Wgmma& mine = emu::fiber->wgmma;
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
  mine.fenced = false;
}

template <int kPending>
void wgmma_wait() {
  emu::wait_for(emu::kWgmma);
  emu::Wgmma& mine = emu::fiber->wgmma;
  while (mine.groups.size() > kPending) {
    for (const emu::Product& p : mine.groups.front()) emu::multiply(p);
    mine.groups.erase(mine.groups.begin());
  }
  std::map<float*, std::vector<float>> left;
  const auto keep = [&](const std::vector<emu::Product>& group) {
    for (const emu::Product& p : group) left[p.d] = mine.sums.at(p.d);
  };
  for (const auto& group : mine.groups) keep(group);
  keep(mine.open);
  for (const auto& [d, sums] : mine.sums)
    if (!left.count(d)) memcpy(d, sums.data(), sums.size() * sizeof(float));
  mine.sums = std::move(left);
}

template <int kCount>
void wgmma_keep(float (&)[kCount]) {}

}  // namespace instr
}  // namespace fastsr
