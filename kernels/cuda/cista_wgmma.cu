// SPDX-License-Identifier: Apache-2.0
// cista_wgmma   the convolutions of cista.cu by wgmma and TMA, for compute capability 9.0 (sm_90a)
//
// shapes    as cista.cu: x [N, H, W, Ci], fixed, out, out_fixed [N, H, W, Co], half floats, sums in fp32; Ci a multiple of
//           64. weights are cista.cu's: [Co / FASTSR_BLOCK][Ci / 64][9][FASTSR_BLOCK][64].
// work      a block of three warpgroups goes from item to item of FASTSR_ROWS x 16 pixels by FASTSR_N output channels.
//           One thread of the third keeps two rings full by TMA: boxes of (FASTSR_ROWS + 2) x 16 pixels by 64 input channels, one
//           for each column of taps (shifted by -1, 0, 1 pixels; outside the image they are 0), and the 64 channels of
//           FASTSR_N filters for each tap. Two warpgroups multiply, half of the rows each: the three taps of a column
//           read the same box from its row 0, 1 or 2 on, 2 KB apart, which the 128-byte swizzle allows. A warp gives a
//           slot back when the group of products after the one that read it is under way. Sum with fixed, ReLU and
//           rounding happen in registers, while the rings fill for the next item.
// cost      18 m0^2 flops a pixel and recursion, HBM as cista.cu. From L2, per item and chunk of 64 channels, 37.7 Mflop:
//             16 x 128  3 x 36.9 KB of pixels, 147 KB of weights: 146 flop a byte, 5.4 TB/s at 790 Tflop/s
//              8 x 256  3 x 20.5 KB and 295 KB: 106 flop a byte, 7.5 TB/s
//           From shared memory, of 128 bytes a cycle: a wgmma reads 6 (10) KB in the 64 (128) cycles that it takes at
//           full rate, TMA writes 28 (39) bytes a cycle: 97 % (93 %) busy. An epilogue waits for memory, 2 to 7 thousand
//           cycles beside an item's 37 thousand of products at m0 = 256 and 147 thousand at 1024; one warpgroup's may run
//           beside products of the other's as far as the rings are deep (7 or 5 taps of 0.5 thousand). Expected limits, in
//           this order: L2, power (790 of 989 Tflop/s are what a plain GEMM reaches), the epilogue. 65 to 85 % of 790
//           Tflop/s is what that leaves: an estimate. Not measured: no GPU was at hand.
//
// Compiled once per instance: FASTSR_T (Bf16 or Fp16), FASTSR_ROWS, FASTSR_N, FASTSR_BLOCK, FASTSR_PIXEL_SLOTS,
// FASTSR_WEIGHT_SLOTS.
#include "cista.cuh"
#include "hopper.cuh"

namespace fastsr {

constexpr int kConsumers = 8;  // warps that multiply, two warpgroups; a third one has the thread that loads
constexpr int kBlockThreads = 32 * (kConsumers + 4);
constexpr int kConsumerRegisters = 232, kProducerRegisters = 40;
static_assert(2 * kConsumerRegisters + kProducerRegisters <= 65536 / 128, "registers of a processor");

template <class T, int kRows, int kN, int kBlock, int kPixelSlots, int kWeightSlots>
struct CistaWgmma {
  static_assert(kRows % 8 == 0 && kN % kBlock == 0, "tile");
  static constexpr int kGroups = kRows / 8;                    // of 64 pixels, four rows, of a warpgroup
  static constexpr int kRowBytes = kTile * kSwizzleRow;        // of pixels
  static constexpr int kPixelBytes = (kRows + 2) * kRowBytes;  // a slot
  static constexpr int kWeightBytes = kN * kSwizzleRow;        // a slot
  static constexpr int kBlockBytes = kBlock * kSwizzleRow;
  static_assert(kRowBytes % kSwizzleBlock == 0 && kBlockBytes % kSwizzleBlock == 0, "matrices begin with the pattern");

  struct Barriers {
    u64 pixels_full[kPixelSlots], pixels_empty[kPixelSlots], weights_full[kWeightSlots], weights_empty[kWeightSlots];
  };

  const TensorMap& x;
  const TensorMap& weights;
  CistaOutput output;
  TilesOf<kRows> tiles;
  int chunks, blocks, count;  // of input channels, of output channels, items of all images
  unsigned char* pixel_slots;
  unsigned char* weight_slots;
  Barriers* barriers;

  __device__ __forceinline__ CistaWgmma(const TensorMap& x_map, const TensorMap& weights_map, const CistaOutput& to,
                                        int images, int height, int width, int channels_in, unsigned char* shared)
      : x(x_map),
        weights(weights_map),
        output(to),
        tiles(height, width),
        chunks(channels_in / 64),
        blocks(to.channels / kN),
        count(images * tiles.down * tiles.across * blocks),
        pixel_slots(shared + (0u - instr::shared_address(shared)) % kSwizzleBlock),
        weight_slots(pixel_slots + kPixelSlots * kPixelBytes),
        barriers(reinterpret_cast<Barriers*>(weight_slots + kWeightSlots * kWeightBytes)) {}

  __device__ __forceinline__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kPixelSlots; ++i) {
        instr::mbarrier_init(&barriers->pixels_full[i], 1);
        instr::mbarrier_init(&barriers->pixels_empty[i], kConsumers);
      }
      for (int i = 0; i < kWeightSlots; ++i) {
        instr::mbarrier_init(&barriers->weights_full[i], 1);
        instr::mbarrier_init(&barriers->weights_empty[i], kConsumers);
      }
      instr::fence_async_proxy();
    }
    __syncthreads();
    if (warp_id() < kConsumers) {
      instr::more_registers<kConsumerRegisters>();
      consume();
    } else {
      instr::fewer_registers<kProducerRegisters>();
      if (threadIdx.x == 32 * kConsumers) produce();
    }
  }

  // Chunks of input channels, within them columns of taps, within them the three taps.
  __device__ __forceinline__ void produce() const {
    Turn<kPixelSlots> pixels;
    Turn<kWeightSlots> taps;
    for (int item = static_cast<int>(blockIdx.x); item < count; item += static_cast<int>(gridDim.x)) {
      const Origin at(tiles, item / blocks);
      const int first_block = item % blocks * (kN / kBlock);
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; ++chunk) {
#pragma unroll 1
        for (int dx = 0; dx < 3; ++dx) {
          u64* full = &barriers->pixels_full[pixels.slot];
          instr::mbarrier_wait(&barriers->pixels_empty[pixels.slot], pixels.parity ^ 1);
          instr::mbarrier_expect(full, kPixelBytes);
          instr::tensor_box(pixel_slots + pixels.slot * kPixelBytes, x, full, chunk * 64, at.x + dx - 1, at.y - 1,
                            at.image);
          pixels.advance();
#pragma unroll 1
          for (int dy = 0; dy < 3; ++dy) {
            full = &barriers->weights_full[taps.slot];
            instr::mbarrier_wait(&barriers->weights_empty[taps.slot], taps.parity ^ 1);
            instr::mbarrier_expect(full, kWeightBytes);
#pragma unroll
            for (int i = 0; i < kN / kBlock; ++i) {
              const int row = (((first_block + i) * chunks + chunk) * 9 + dy * 3 + dx) * kBlock;
              instr::tensor_box(weight_slots + taps.slot * kWeightBytes + i * kBlockBytes, weights, full, 0, row);
            }
            taps.advance();
          }
        }
      }
    }
  }

  // This warp reads the slot no more.
  __device__ __forceinline__ static void release(u64* empty) {
    if (lane_id() == 0) instr::mbarrier_arrive(empty);
  }

  __device__ __forceinline__ void consume() const {
    const int first_row = warp_id() / 4 * (kRows / 2);  // of this warpgroup
    Turn<kPixelSlots> pixels;
    Turn<kWeightSlots> taps;
    for (int item = static_cast<int>(blockIdx.x); item < count; item += static_cast<int>(gridDim.x)) {
      float sum[kGroups][kN / 2];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) sum[g][i] = 0.0f;
      }
#pragma unroll 1
      for (int column = 0; column < 3 * chunks; ++column) {
        instr::mbarrier_wait(&barriers->pixels_full[pixels.slot], pixels.parity);
        const u64 a = matrix(pixel_slots + pixels.slot * kPixelBytes + first_row * kRowBytes);
#pragma unroll
        for (int dy = 0; dy < 3; ++dy) {
          instr::mbarrier_wait(&barriers->weights_full[taps.slot], taps.parity);
          const u64 b = matrix(weight_slots + taps.slot * kWeightBytes);
          instr::wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k) {
#pragma unroll
            for (int g = 0; g < kGroups; ++g)
              wgmma(T(), sum[g], moved(a, (dy + 4 * g) * kRowBytes + k * 32), moved(b, k * 32));
          }
          instr::wgmma_commit();
          instr::wgmma_wait<1>();
          if (column + dy > 0) release(&barriers->weights_empty[taps.before()]);
          if (column > 0 && dy == 0) release(&barriers->pixels_empty[pixels.before()]);
          taps.advance();
        }
        pixels.advance();
      }
      instr::wgmma_wait<0>();
#pragma unroll
      for (int g = 0; g < kGroups; ++g) instr::wgmma_keep(sum[g]);
      release(&barriers->weights_empty[taps.before()]);
      release(&barriers->pixels_empty[pixels.before()]);
      finish(sum, Origin(tiles, item / blocks), first_row, item % blocks * kN);
    }
  }

  // A warp has one row of each group of 64 pixels; a lane of it two pixels and runs of 8 channels (channel_order of
  // kernels/cuda/layout.py).
  __device__ __forceinline__ void finish(const float (&sum)[kGroups][kN / 2], const Origin& at, int first_row,
                                         int first_channel) const {
    const int lane = lane_id();
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int y = at.y + first_row + 4 * g + warp_id() % 4;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at_x = at.x + lane / 4 + half * 8;
        if (y >= tiles.height || at_x >= tiles.width) continue;
        const long long pixel = (at.image * tiles.height + y) * tiles.width + at_x;
#pragma unroll
        for (int n = 0; n < kN; n += 32) {
          float values[8];
#pragma unroll
          for (int j = 0; j < 8; ++j) values[j] = sum[g][n / 2 + j / 2 * 4 + half * 2 + j % 2];
          output.store<T>(pixel, first_channel + n + lane % 4 * 8, values);
        }
      }
    }
  }
};

}  // namespace fastsr

extern "C" __global__ void __launch_bounds__(fastsr::kBlockThreads, 1)
    cista_wgmma(const __grid_constant__ fastsr::TensorMap x, const __grid_constant__ fastsr::TensorMap weights,
                const fastsr::u16* fixed, fastsr::u16* out, fastsr::u16* out_fixed, int images, int height, int width,
                int channels_in, int channels_out) {
  FASTSR_DYNAMIC_SHARED(shared);
  const fastsr::CistaOutput output = {fixed, out, out_fixed, channels_out};
  fastsr::CistaWgmma<fastsr::FASTSR_T, FASTSR_ROWS, FASTSR_N, FASTSR_BLOCK, FASTSR_PIXEL_SLOTS, FASTSR_WEIGHT_SLOTS>(
      x, weights, output, images, height, width, channels_in, shared)
      .run();
}
