// SPDX-License-Identifier: Apache-2.0
// A tile of a 3 x 3 convolution on the tensor cores: 16 x 16 pixels by kN channels for a block of 8 warps.
//
// The pixels of the tile and one ring around it lie in shared memory once, [324][channels]; the nine taps read them
// shifted. The rows of an mma are 16 pixels of one row of the tile, its columns 8 output channels. Weights come as
// [kN][channels] per tap, their rows in an order (channel_order of kernels/cuda/layout.py) that gives a lane
// neighbouring channels: it then writes 8 (or 4) of them at once and no result passes through shared memory.
#pragma once

#include "common.cuh"

namespace fastsr {

constexpr int kTile = 16;         // pixels each way; the rows of an mma
constexpr int kHalo = kTile + 2;  // with a ring of one
constexpr int kHaloPixels = kHalo * kHalo;
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

// How the warps share a tile of kN channels.
template <int kN>
struct Share {
  static_assert(kN % 16 == 0 && kN <= 128 && (kN <= 64 || kN % 32 == 0), "channels of a tile");
  static constexpr int kAcross = kN > 64 ? 2 : 1;             // warps side by side in channels
  static constexpr int kChannels = kN / kAcross;              // of a warp
  static constexpr int kRows = kTile / (kWarps / kAcross);    // of pixels of a warp
  static constexpr int kColumns = kChannels / 8;              // mma columns of a warp
  static constexpr int kGroup = kChannels % 32 == 0 ? 4 : 2;  // mma columns in which a lane's channels are neighbours
  static constexpr int kRun = 2 * kGroup;                     // these neighbours
  static __device__ __forceinline__ int first_row() { return warp_id() / kAcross * kRows; }
  static __device__ __forceinline__ int first_channel() { return warp_id() % kAcross * kChannels; }
};

// Tiles of kRows x kTile pixels.
template <int kRows>
struct TilesOf {
  int height, width, down, across;  // of an image, in pixels and in tiles

  __device__ __forceinline__ TilesOf(int h, int w)
      : height(h), width(w), down((h + kRows - 1) / kRows), across((w + kTile - 1) / kTile) {}
};

using Tiles = TilesOf<kTile>;

// Where a tile lies: image, first row, first column.
struct Origin {
  int image, y, x;

  template <int kRows>
  __device__ __forceinline__ Origin(const TilesOf<kRows>& tiles, int index)
      : image(index / (tiles.down * tiles.across)),
        y(index / tiles.across % tiles.down * kRows),
        x(index % tiles.across * kTile) {}
};

// Whether pixel `p` of the halo lies in the image, and which of its pixels it then is. Launchers see to it that there are
// fewer than 2^31.
__device__ __forceinline__ bool halo_pixel(const Tiles& tiles, const Origin& at, int p, int* pixel) {
  const int y = at.y + p / kHalo - 1, x = at.x + p % kHalo - 1;
  *pixel = (at.image * tiles.height + y) * tiles.width + x;
  return y >= 0 && y < tiles.height && x >= 0 && x < tiles.width;
}

// Calls load(i) for this thread's share of 0 <= i < kCount. Unrolled: what does not change from one to the next is
// computed once.
template <int kCount, class Load>
__device__ __forceinline__ void for_each_unit(const Load& load) {
#pragma unroll
  for (int i = 0; i < (kCount + kThreads - 1) / kThreads; ++i) {
    const int unit = static_cast<int>(threadIdx.x) + i * kThreads;
    if (kCount % kThreads == 0 || unit < kCount) load(unit);
  }
}

template <int kChunk>
constexpr int kHaloUnits = kHaloPixels * kChunk / 8;

// Begins to load units [begin, begin + kCount) of the 324 x kChunk halo of channels [first, first + kChunk); pixels
// beyond the image are 0.
template <int kChunk, int kCount>
__device__ __forceinline__ void load_halo(unsigned char* to, const u16* x, int channels, int first, const Tiles& tiles,
                                          const Origin& at, int begin) {
  constexpr int kUnits = kChunk / 8;
  for_each_unit<kCount>([&](int i) {
    const int p = (begin + i) / kUnits, unit = (begin + i) % kUnits;
    int pixel;
    const bool inside = halo_pixel(tiles, at, p, &pixel);
    const u16* from = inside ? x + static_cast<long long>(pixel) * channels + first + unit * 8 : x;
    if (p < kHaloPixels) instr::cp_async_16(to + place<kUnits>(p, unit), from, inside);
  });
}

// Begins to load kRows rows of kChunk weights that lie one after another.
template <int kRows, int kChunk>
__device__ __forceinline__ void load_weights(unsigned char* to, const u16* from) {
  constexpr int kUnits = kChunk / 8;
  for_each_unit<kRows * kUnits>(
      [&](int i) { instr::cp_async_16(to + place<kUnits>(i / kUnits, i % kUnits), from + i * 8, true); });
}

struct Unchanged {
  __device__ __forceinline__ u32 operator()(u32 pair) const { return pair; }
};

// sum[m][n] += pixels x weights over kChunk channels. `row[m]` is the pixel that this lane names for ldmatrix: pixel
// lane % 16 of the m-th mma. `change` is applied to each pair of channels of the pixels.
template <class T, int kChunk, int kM, int kN, class Change>
__device__ __forceinline__ void multiply(float (&sum)[kM][kN][4], const unsigned char* pixels, const int (&row)[kM],
                                         const unsigned char* weights, int first_channel, const Change& change) {
  constexpr int kUnits = kChunk / 8;
  const int lane = lane_id();
  const int channel = first_channel + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < kChunk / 16; ++k) {
    u32 a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      instr::ldmatrix_x4(a[m], pixels + place<kUnits>(row[m], 2 * k + lane / 16));
#pragma unroll
      for (int i = 0; i < 4; ++i) a[m][i] = change(a[m][i]);
    }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      u32 b[4];
      instr::ldmatrix_x4(b, weights + place<kUnits>(channel + n * 8, 2 * k + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        T::mma(sum[m][n], a[m], b[0], b[1]);
        T::mma(sum[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// One tap of the tile: the halo's pixels from (tap / 3, tap % 3) on.
template <class T, int kChunk, int kN>
__device__ __forceinline__ void multiply_tap(float (&sum)[Share<kN>::kRows][Share<kN>::kColumns][4],
                                             const unsigned char* halo, int tap, const unsigned char* weights) {
  using S = Share<kN>;
  int row[S::kRows];
#pragma unroll
  for (int m = 0; m < S::kRows; ++m) row[m] = (S::first_row() + m + tap / 3) * kHalo + lane_id() % kTile + tap % 3;
  multiply<T, kChunk, S::kRows, S::kColumns>(sum, halo, row, weights, S::first_channel(), Unchanged());
}

// Calls finish(pixel, channel, values) for each run of kRun channels of a pixel that this lane holds and that lies in
// the image.
template <int kN, class Finish>
__device__ __forceinline__ void for_each_run(const float (&sum)[Share<kN>::kRows][Share<kN>::kColumns][4],
                                             const Tiles& tiles, const Origin& at, const Finish& finish) {
  using S = Share<kN>;
  const int lane = lane_id();
#pragma unroll
  for (int m = 0; m < S::kRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int y = at.y + S::first_row() + m, x = at.x + lane / 4 + half * 8;
      if (y >= tiles.height || x >= tiles.width) continue;
      const long long pixel = (at.image * tiles.height + y) * tiles.width + x;
#pragma unroll
      for (int n = 0; n < S::kColumns; n += S::kGroup) {
        float values[S::kRun];
#pragma unroll
        for (int j = 0; j < S::kRun; ++j) values[j] = sum[m][n + j / 2][half * 2 + j % 2];
        finish(pixel, S::first_channel() + n * 8 + lane % 4 * S::kRun, values);
      }
    }
  }
}

// values[j] += from[j], which lies at a multiple of 16 bytes.
template <int kRun>
__device__ __forceinline__ void add_floats(float (&values)[kRun], const float* from) {
#pragma unroll
  for (int j = 0; j < kRun; j += 4) {
    const Words<4> added = load_words<4>(from + j);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[j + i] += bits_to_float(added.word[i]);
  }
}

template <class T, int kRun>
__device__ __forceinline__ Words<kRun / 2> pack_run(const float (&values)[kRun]) {
  Words<kRun / 2> packed;
#pragma unroll
  for (int i = 0; i < kRun / 2; ++i) packed.word[i] = T::pack(values[2 * i], values[2 * i + 1]);
  return packed;
}

}  // namespace fastsr
