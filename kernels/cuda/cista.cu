// SPDX-License-Identifier: Apache-2.0
// cista     z_0 = relu(w * y), then K times z = relu(w * y + s * z), zero borders              paper 004, Eq. 10 and 12
// shapes    y [N, H, W, n0]  w [m0, n0, 3, 3]  s [m0, m0, 3, 3]  z, fixed = w * y [N, H, W, m0]  half floats; sums in
//           fp32. One launch is one convolution: the first writes fixed and z_0, each other reads fixed and writes the
//           next z into the buffer of the one before last.
// work      a block goes from item to item of 16 x 16 pixels by FASTSR_N of the output channels. Input channels come in
//           chunks of FASTSR_CHUNK: the chunk of the tile and of the ring around it lies in shared memory once and feeds
//           nine steps, one tap of weights each. Weights go through a ring of FASTSR_STAGES slots; the halo of the next
//           chunk, of the next item as well, comes piece by piece with them into the other of two places. Sum with
//           fixed, ReLU and rounding happen in registers.
// cost      18 m0^2 flops a pixel and recursion (1.18 Mflop at m0 = 256, 18.9 at 1024). HBM: z read, fixed read, z
//           written, 6 m0 bytes: 768 (3072) flop a byte. L2: an item and chunk of 64 channels brings 41 KB of pixels and
//           147 KB of weights for 37.7 Mflop, 200 flop a byte: 3 TB/s at 600 Tflop/s. Shared memory 145 KB with chunks
//           of 64 and 4 slots, 73 KB with chunks of 32 (devices of 99 KB). Expected limit: mma.sync. Not measured: no
//           GPU was at hand.
//
// Compiled once per instance: FASTSR_T (Bf16 or Fp16), FASTSR_CHUNK, FASTSR_N, FASTSR_STAGES.
#include "cista.cuh"

namespace fastsr {

struct CistaArgs {
  const u16* x;        // [N, H, W, Ci]: y, or z
  const u16* weights;  // [Co / kN][Ci / kChunk][9][kN][kChunk], rows in channel_order(kN)
  CistaOutput output;
  int images, height, width, channels_in;
};

template <class T, int kChunk, int kN, int kStages>
struct Cista {
  static constexpr int kHaloBytes = kHaloPixels * kChunk * 2;
  static constexpr int kSlot = kN * kChunk * 2;
  static constexpr int kShared = 2 * kHaloBytes + kStages * kSlot;
  // A halo comes in as many pieces as taps of the chunk before can bring it: the wait at a step is for the group that
  // was committed kStages - 1 steps earlier, so the last pieces must go with tap 10 - kStages.
  static constexpr int kPieces = 11 - kStages < 9 ? 11 - kStages : 9;
  static_assert(kStages >= 2 && kPieces >= 1, "stages");
  static constexpr int kPiece = (kHaloUnits<kChunk> + kPieces - 1) / kPieces;

  CistaArgs args;
  Tiles tiles;
  int chunks, blocks, count;  // of input channels, of output channels, items of all images
  unsigned char* halos;
  unsigned char* slots;
  int slot, halo;  // that are read
  // What is loaded next. Kept from step to step: a division in each would cost as much as a tenth of the mma.
  int weights_item, weights_left, weights_slot;  // taps and chunks left of the item
  const u16* weights;
  int halo_item, halo_chunk, halo_place;
  Origin halo_origin;

  __device__ __forceinline__ Cista(const CistaArgs& a, unsigned char* shared)
      : args(a),
        tiles(a.height, a.width),
        chunks(a.channels_in / kChunk),
        blocks(a.output.channels / kN),
        count(a.images * tiles.down * tiles.across * blocks),
        halos(shared),
        slots(shared + 2 * kHaloBytes),
        slot(0),
        halo(0),
        weights_item(static_cast<int>(blockIdx.x)),
        weights_slot(0),
        halo_item(weights_item),
        halo_chunk(0),
        halo_place(0),
        halo_origin(tiles, halo_item / blocks) {
    begin_weights();
  }

  __device__ __forceinline__ void begin_weights() {
    weights_left = 9 * chunks;
    weights = args.weights + static_cast<long long>(weights_item % blocks) * weights_left * (kN * kChunk);
  }

  // Begins the loads of the weights of the next step.
  __device__ __forceinline__ void load_tap() {
    if (weights_item >= count) return;
    load_weights<kN, kChunk>(slots + weights_slot * kSlot, weights);
    weights += kN * kChunk;
    weights_slot = weights_slot + 1 == kStages ? 0 : weights_slot + 1;
    if (--weights_left == 0) weights_item += static_cast<int>(gridDim.x), begin_weights();
  }

  template <int kCount>
  __device__ __forceinline__ void load_piece(int begin) const {
    if (halo_item < count)
      load_halo<kChunk, kCount>(halos + halo_place * kHaloBytes, args.x, args.channels_in, halo_chunk * kChunk, tiles,
                                halo_origin, begin);
  }

  __device__ __forceinline__ void begin_halo() {
    halo_place ^= 1;
    if (++halo_chunk == chunks) {
      halo_chunk = 0;
      halo_item += static_cast<int>(gridDim.x);
      halo_origin = Origin(tiles, halo_item / blocks);
    }
  }

  __device__ __forceinline__ void run() {
    load_piece<kHaloUnits<kChunk>>(0);
    begin_halo();
    for (int i = 0; i < kStages - 1; ++i) {
      load_tap();
      instr::cp_async_commit();
    }
    for (int item = static_cast<int>(blockIdx.x); item < count; item += static_cast<int>(gridDim.x)) {
      float sum[Share<kN>::kRows][Share<kN>::kColumns][4] = {};
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; ++chunk) {
        const unsigned char* pixels = halos + halo * kHaloBytes;
#pragma unroll 1
        for (int tap = 0; tap < 9; ++tap) {
          instr::cp_async_wait<kStages - 2>();
          // Also: all threads are done with the slot and, at tap 0, with the halo that are loaded next.
          __syncthreads();
          load_tap();
          if (tap < kPieces) load_piece<kPiece>(tap * kPiece);
          instr::cp_async_commit();
          multiply_tap<T, kChunk, kN>(sum, pixels, tap, slots + slot * kSlot);
          slot = slot + 1 == kStages ? 0 : slot + 1;
        }
        begin_halo();
        halo ^= 1;
      }
      finish(sum, Origin(tiles, item / blocks), item % blocks * kN);
    }
    instr::cp_async_wait<0>();
  }

  __device__ __forceinline__ void finish(const float (&sum)[Share<kN>::kRows][Share<kN>::kColumns][4], const Origin& at,
                                         int first_channel) const {
    for_each_run<kN>(sum, tiles, at, CistaFinish<T>{args.output, first_channel});
  }
};

}  // namespace fastsr

extern "C" __global__ void __launch_bounds__(fastsr::kThreads, 1)
    cista(const fastsr::u16* x, const fastsr::u16* weights, const fastsr::u16* fixed, fastsr::u16* out,
          fastsr::u16* out_fixed, int images, int height, int width, int channels_in, int channels_out) {
  FASTSR_DYNAMIC_SHARED(shared);
  const fastsr::CistaArgs args = {x,     weights,    {fixed, out, out_fixed, channels_out}, images, height,
                                  width, channels_in};
  fastsr::Cista<fastsr::FASTSR_T, FASTSR_CHUNK, FASTSR_N, FASTSR_STAGES>(args, shared).run();
}
