// SPDX-License-Identifier: Apache-2.0
// pconv_block   out = x + W3 * act(W1 act(x) + b1) + b3, zero border around the 3 x 3          paper 002, section 3.3
// shapes    x, out [N, H, W, C]  W1 [M, C]  W3 [C, M, 3, 3]  half floats   b1 [M]  b3 [C]  f32; sums in fp32
// work      a block goes from tile to tile of 16 x 16 pixels. Per tile C / 32 steps bring 32 channels of the tile and of
//           the ring around it and the matching part of W1: t = act(W1 act(x) + b1) of 18 x 18 pixels forms in
//           registers and then lies in shared memory. Nine steps bring one tap of W3 each, which all read that t.
//           Steps follow each other through a ring of FASTSR_STAGES slots that cp.async fills, across tiles as well, so
//           that the tensor cores wait for no load but the first.
// cost      per pixel 2 (1.5 + 9) C M flops, of which 0.5 are the 1 x 1 made again on the ring (324 pixels for 256, as 24
//           rows of mma, three a warp): 172 kflop at 128-64. HBM: reads and writes 2 C bytes, 512 B a pixel; L2: 324 B of
//           x, again 256 B for the residual, and 640 B of weights. Shared memory 41.5 KB of t and 24.3 KB a slot: 138 KB
//           with 4 slots, 89 KB with 2 (devices of 99 KB). Expected limit: mma.sync (336 flop per byte of HBM). Not
//           measured: no GPU was at hand.
//
// Compiled once per instance: FASTSR_T (Bf16 or Fp16), FASTSR_C, FASTSR_M, FASTSR_STAGES.
#include "conv_tile.cuh"

namespace fastsr {

struct PConvArgs {
  const u16* x;     // [N, H, W, C]
  const u16* w1;    // [C / kChunk][M][kChunk], rows in channel_order(M)
  const float* b1;  // [M]
  const u16* w3;    // [9][C][M], rows in channel_order(C)
  const float* b3;  // [C]
  u16* out;         // [N, H, W, C]
  int images, height, width;
  float slope;  // act(v) = v above 0, slope v below
};

// act(v) = v above 0, slope v below, of a pair of halves.
template <class T>
struct Activated {
  float slope;
  __device__ __forceinline__ u32 operator()(u32 pair) const {
    const float low = T::low(pair), high = T::high(pair);
    return T::pack(low > 0.0f ? low : low * slope, high > 0.0f ? high : high * slope);
  }
};

// What for_each_run calls: adds b3 and x, and writes. A functor: NVRTC before 13.1 takes a lambda with an `auto` parameter
// for a function of the host.
template <class T, int kC>
struct PConvFinish {
  const PConvArgs& args;

  template <int kRun>
  __device__ __forceinline__ void operator()(long long pixel, int channel, float (&values)[kRun]) const {
    const Words<kRun / 2> x = load_words<kRun / 2>(args.x + pixel * kC + channel);
    add_floats(values, args.b3 + channel);
#pragma unroll
    for (int j = 0; j < kRun / 2; ++j) {
      values[2 * j] += T::low(x.word[j]);
      values[2 * j + 1] += T::high(x.word[j]);
    }
    store_words(args.out + pixel * kC + channel, pack_run<T>(values));
  }
};

template <class T, int kC, int kM, int kStages>
struct PConv {
  static_assert(kM % 16 == 0 && kM <= 64, "the sums of 3 x 16 halo pixels by M channels are a warp's registers");
  static constexpr int kChunk = kC % 32 == 0 ? 32 : 16;
  static constexpr int kChunks = kC / kChunk;
  static constexpr int kSteps = kChunks + 9;
  static constexpr int kChunkBytes = kHaloPixels * kChunk * 2;
  static constexpr int kSlot = max_of(kChunkBytes + kM * kChunk * 2, kC * kM * 2);
  static constexpr int kInner = kHaloPixels * kM * 2;  // bytes of t
  static constexpr int kShared = kInner + kStages * kSlot;
  static constexpr int kRowsOfHalo = (kHaloPixels + 15) / 16;  // mma rows that cover the halo
  static constexpr int kRows = (kRowsOfHalo + kWarps - 1) / kWarps;
  static constexpr int kGroup = Share<kM>::kGroup;  // Share<kM> has one warp across: the order of t's channels
  static constexpr int kRun = 2 * kGroup;

  PConvArgs args;
  Tiles tiles;
  int count;             // tiles of all images
  unsigned char* inner;  // t
  unsigned char* slots;
  int load_tile, load_step, load_slot, slot;

  __device__ __forceinline__ PConv(const PConvArgs& a, unsigned char* shared)
      : args(a),
        tiles(a.height, a.width),
        count(a.images * tiles.down * tiles.across),
        inner(shared),
        slots(shared + kInner),
        load_tile(static_cast<int>(blockIdx.x)),
        load_step(0),
        load_slot(0),
        slot(0) {}

  // Begins the loads of the next step; past the last tile an empty group keeps the count of groups.
  __device__ __forceinline__ void load_next() {
    if (load_tile < count) {
      unsigned char* to = slots + load_slot * kSlot;
      if (load_step < kChunks) {
        load_halo<kChunk, kHaloUnits<kChunk>>(to, args.x, kC, load_step * kChunk, tiles, Origin(tiles, load_tile), 0);
        load_weights<kM, kChunk>(to + kChunkBytes, args.w1 + load_step * kM * kChunk);
      } else {
        load_weights<kC, kM>(to, args.w3 + (load_step - kChunks) * kC * kM);
      }
      load_slot = load_slot + 1 == kStages ? 0 : load_slot + 1;
      if (++load_step == kSteps) load_step = 0, load_tile += static_cast<int>(gridDim.x);
    }
    instr::cp_async_commit();
  }

  // The slot of the next step, loaded; the slot of the step before is free and the next load goes there.
  __device__ __forceinline__ const unsigned char* next_slot() {
    instr::cp_async_wait<kStages - 2>();
    __syncthreads();
    load_next();
    const unsigned char* ready = slots + slot * kSlot;
    slot = slot + 1 == kStages ? 0 : slot + 1;
    return ready;
  }

  __device__ __forceinline__ float act(float v) const { return v > 0.0f ? v : v * args.slope; }

  // t of the halo: warp w takes rows w, w + 8, w + 16 of 16 pixels.
  __device__ __forceinline__ void make_inner(const Origin& at) {
    const int lane = lane_id(), warp = warp_id();
    float sum[kRows][kM / 8][4] = {};
    int row[kRows];
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const int p = (warp + m * kWarps) * 16 + lane % 16;
      row[m] = p < kHaloPixels ? p : kHaloPixels - 1;  // of rows beyond the halo nothing is kept
    }
#pragma unroll 1
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const unsigned char* ready = next_slot();
      multiply<T, kChunk, kRows, kM / 8>(sum, ready, row, ready + kChunkBytes, 0, Activated<T>{args.slope});
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int p = (warp + m * kWarps) * 16 + lane / 4 + half * 8;
        if (p >= kHaloPixels) continue;
        int pixel;
        const bool inside = halo_pixel(tiles, at, p, &pixel);  // beyond the image t is 0, not act(b1)
#pragma unroll
        for (int n = 0; n < kM / 8; n += kGroup) {
          const int channel = n * 8 + lane % 4 * kRun;
          float values[kRun];
#pragma unroll
          for (int j = 0; j < kRun; ++j) values[j] = sum[m][n + j / 2][half * 2 + j % 2];
          add_floats(values, args.b1 + channel);
#pragma unroll
          for (int j = 0; j < kRun; ++j) values[j] = inside ? act(values[j]) : 0.0f;
          store_words(inner + place<kM / 8>(p, channel / 8) + channel % 8 * 2, pack_run<T>(values));
        }
      }
    }
  }

  __device__ __forceinline__ void make_output(const Origin& at) {
    float sum[Share<kC>::kRows][Share<kC>::kColumns][4] = {};
#pragma unroll 1
    for (int tap = 0; tap < 9; ++tap) {
      const unsigned char* ready = next_slot();
      multiply_tap<T, kM, kC>(sum, inner, tap, ready);
    }
    for_each_run<kC>(sum, tiles, at, PConvFinish<T, kC>{args});
  }

  __device__ __forceinline__ void run() {
    for (int i = 0; i < kStages - 1; ++i) load_next();
    for (int tile = static_cast<int>(blockIdx.x); tile < count; tile += static_cast<int>(gridDim.x)) {
      const Origin at(tiles, tile);
      make_inner(at);
      make_output(at);
    }
    instr::cp_async_wait<0>();
  }
};

}  // namespace fastsr

extern "C" __global__ void __launch_bounds__(fastsr::kThreads, 1)
    pconv_block(const fastsr::u16* x, const fastsr::u16* w1, const float* b1, const fastsr::u16* w3, const float* b3,
                fastsr::u16* out, int images, int height, int width, float slope) {
  FASTSR_DYNAMIC_SHARED(shared);
  const fastsr::PConvArgs args = {x, w1, b1, w3, b3, out, images, height, width, slope};
  fastsr::PConv<fastsr::FASTSR_T, FASTSR_C, FASTSR_M, FASTSR_STAGES>(args, shared).run();
}
