// SPDX-License-Identifier: Apache-2.0
// anchored_regression   out = base + mean over 9 patches of P[argmax_a |d_a . f|] f,  f = filters * x   paper 000, Eq. 5
// shapes    x [N, 1, h, w]  base, out [N, 1, sh, sw]  filters [n1, F, F]  atoms [A, n1]  P [A, 9 s^2, n1], n1 <= 32
// work      one block = 14 x 22 pixels of x and the 16 x 24 patches on them (a quarter of the patches is made in two
//           blocks). All in shared memory: features in fp32 (the FLAT rule is applied); scores of all atoms, 64 at a
//           time, in registers, of which only the best remains; patches sorted by atom; then nine passes, one for each
//           of the 3 x 3 cells of a patch, in which every cell of the tile receives one detail. So the details of a cell
//           are added in a fixed order, and no detail is stored. In a pass a thread computes one pixel of the details of
//           8 (s = 3) or 6 patches that follow each other in the order of atoms and loads a row of P when the atom
//           changes.
// anchors   scores are products of half floats on the tensor cores, but as good as fp32: f = fh + fl and d = dh + dl are
//           cut in two halves of 11 bits (f and all d scaled by a power of two before, which moves no maximum), and
//           d . f = dl fh + dh fl + dh fh, without dl fl. Two halves hold an element to 2^-22 of it, or to 2^-25 where
//           the largest of f is 1 to 2; what is left out is at most 2^-22 |d| |f|. So a score is wrong by less than
//           2^-19 |d| |f| and the rounding of its fp32 sum, which any fp32 search has too. The lowest index wins a tie:
//           atoms come in rising order and only a larger score replaces the best.
// cost      per patch 162 x 32 + 6 x 32 A + 18 s^2 x 32 flops: 5.2 k, 197 k (as mma) and 5.2 k at s = 3; times 1.25 per
//           pixel of x. HBM: x, base and out once, 76 bytes a pixel of x at s = 3 in fp32. L2: 128 KB of atoms a tile,
//           425 B a pixel; one matrix (5.2 KB at s = 3, half floats) per tile and atom that occurs: 245 atoms on 384
//           patches of photographs (docs/performance.md), 4.1 KB a pixel. Shared memory 87 KB: two blocks per SM on
//           sm_90. Expected limit: the matrices from L2 (0.7 ns a pixel of x at an assumed 5.5 TB/s), beside them the
//           search on the tensor cores (0.4 ns at 600 Tflop/s; plain FFMA would need 1.3 ns at 60). Not measured: no GPU
//           was at hand.
//
// Compiled once per instance: FASTSR_T (Fp32, Bf16 or Fp16: x, base, out), FASTSR_P (Fp16 or Fp32: projections),
// FASTSR_SCALE, FASTSR_FILTER (F, odd).
#include "common.cuh"

namespace fastsr {

constexpr int kThreads = 256;
constexpr int kWarps = 8;
constexpr float kFlat = 0x1p-16f;  // FLAT of fastsr/ops/anchored_regression.py

struct AnchoredArgs {
  const void* x;            // [N, h, w]
  const void* base;         // [N, sh, sw]
  const float* filters;     // [F * F][32], padded with zeros
  const u16* atoms;         // [A / 64][dh, dl][64][32], padded with zeros to a multiple of 64
  const void* projections;  // [A][9 cells][s * s][32], padded with zeros
  void* out;                // [N, sh, sw]
  int images, height, width;
  int atom_count;  // a multiple of 64
};

template <class T, class P, int kScale, int kFilter>
struct Anchored {
  static constexpr int kRows = 16, kColumns = 24, kPatches = kRows * kColumns;
  static constexpr int kTileRows = kRows - 2, kTileColumns = kColumns - 2;
  static constexpr int kFeatures = 32;
  static constexpr int kStride = 36;  // floats from patch to patch: 8 patches lie in different banks
  static constexpr int kTaps = kFilter * kFilter;
  static constexpr int kWindowRows = kRows + kFilter - 1, kWindowColumns = kColumns + kFilter - 1;
  static constexpr int kChunk = 64;  // atoms in shared memory at once
  static constexpr int kSlot = 2 * kChunk * kFeatures * 2;
  static constexpr int kStages = 3;
  static constexpr int kCell = kScale * kScale;
  static constexpr int kSpan =
      kScale == 3 ? 8 : 6;  // patches of a thread in a pass: few idle threads in the last round
  static constexpr int kM = kPatches / 16 / kWarps;  // mma rows of a warp
  static_assert(kM * 16 * kWarps == kPatches && kPatches % kSpan == 0, "patches of a tile");

  // One after another in one place: window and filters, then atoms, then the sums of the cells.
  static constexpr int kWindowBytes = (kTaps * kFeatures + kWindowRows * kWindowColumns) * 4;
  static constexpr int kShareBytes =
      round_up(max_of(kWindowBytes, max_of(kStages* kSlot, kTileRows * kTileColumns * kCell * 4)), 128);

  AnchoredArgs args;
  float* features;        // [patches][kStride]
  unsigned char* shared;  // the changing place
  int* anchors;           // [patches]
  int* order;             // [patches], sorted by atom
  int* totals;            // [warps]
  int* counts;            // [atoms]
  int image, y, x;        // of the first cell of the tile

  __device__ __forceinline__ Anchored(const AnchoredArgs& a, unsigned char* memory)
      : args(a),
        features(reinterpret_cast<float*>(memory)),
        shared(memory + kPatches * kStride * 4),
        anchors(reinterpret_cast<int*>(shared + kShareBytes)),
        order(anchors + kPatches),
        totals(order + kPatches),
        counts(totals + kWarps) {
    const int down = (a.height + kTileRows - 1) / kTileRows, across = (a.width + kTileColumns - 1) / kTileColumns;
    const int index = static_cast<int>(blockIdx.x);
    image = index / (down * across);
    y = index / across % down * kTileRows;
    x = index % across * kTileColumns;
  }

  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x); }

  // The pixel that a symmetric border shows at i: the edge repeated, period 2n.
  static __device__ __forceinline__ int reflect(int i, int n) {
    i %= 2 * n;
    if (i < 0) i += 2 * n;
    return i < n ? i : 2 * n - 1 - i;
  }

  // Features of all patches, without the FLAT rule. Warps 0 to 3 take filters 0 to 15, the others the rest.
  __device__ __forceinline__ void make_features() {
    float* filters = reinterpret_cast<float*>(shared);
    float* window = filters + kTaps * kFeatures;
    for (int i = thread(); i < kTaps * kFeatures; i += kThreads) filters[i] = args.filters[i];
    for (int i = thread(); i < kWindowRows * kWindowColumns; i += kThreads) {
      const int from_y = reflect(y - 1 - kFilter / 2 + i / kWindowColumns, args.height);
      const int from_x = reflect(x - 1 - kFilter / 2 + i % kWindowColumns, args.width);
      window[i] = T::load(args.x, (static_cast<long long>(image) * args.height + from_y) * args.width + from_x);
    }
    __syncthreads();
    constexpr int kHalf = kFeatures / 2, kEach = kPatches / (kThreads / 2);
    const int first = thread() / (kThreads / 2) * kHalf;
    float sum[kEach][kHalf] = {};
    const float* pixel[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int p = i * (kThreads / 2) + thread() % (kThreads / 2);
      pixel[i] = window + p / kColumns * kWindowColumns + p % kColumns;
    }
#pragma unroll 1
    for (int dy = 0; dy < kFilter; ++dy) {
#pragma unroll 1
      for (int dx = 0; dx < kFilter; ++dx) {
        const float* w = filters + (dy * kFilter + dx) * kFeatures + first;
        float v[kEach];
#pragma unroll
        for (int i = 0; i < kEach; ++i) v[i] = pixel[i][dy * kWindowColumns + dx];
#pragma unroll
        for (int k = 0; k < kHalf; k += 4) {
          const Words<4> four = load_words<4>(w + k);
#pragma unroll
          for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int i = 0; i < kEach; ++i) sum[i][k + j] += v[i] * bits_to_float(four.word[j]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      float* to = features + (i * (kThreads / 2) + thread() % (kThreads / 2)) * kStride + first;
#pragma unroll
      for (int k = 0; k < kHalf; ++k) to[k] = sum[i][k];
    }
    __syncthreads();
  }

  // The features of 16 patches from `first` on as mma operands, high and low halves; a patch without a feature of at
  // least kFlat becomes 0, in shared memory too.
  __device__ __forceinline__ void split_features(int first, u32 (&high)[2][4], u32 (&low)[2][4]) {
    const int lane = lane_id();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* f = features + (first + lane / 4 + half * 8) * kStride + lane % 4 * 2;
      float v[8];
      float top = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        v[i] = f[i / 2 * 8 + i % 2];
        top = max(top, fabsf(v[i]));
      }
      top = max(top, __shfl_xor_sync(~0u, top, 1));
      top = max(top, __shfl_xor_sync(~0u, top, 2));
      if (!(top >= kFlat)) {
#pragma unroll
        for (int i = 0; i < 8; ++i) f[i / 2 * 8 + i % 2] = v[i] = 0.0f;
      }
      const float scale = power_of_two(top);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float a = v[2 * i] * scale, b = v[2 * i + 1] * scale;
        const u32 pair = Fp16::pack(a, b);
        high[i / 2][half + i % 2 * 2] = pair;
        low[i / 2][half + i % 2 * 2] = Fp16::pack(a - Fp16::low(pair), b - Fp16::high(pair));
      }
    }
  }

  // 2^-k for v of [2^k, 2^(k + 1)).
  static __device__ __forceinline__ float power_of_two(float v) {
    return bits_to_float(0x7f000000u - (float_to_bits(v) & 0x7f800000u));
  }

  __device__ __forceinline__ void load_atoms(int chunk) {
    if (chunk < args.atom_count / kChunk) {
      constexpr int kUnits = kFeatures / 8;
      unsigned char* to = shared + chunk % kStages * kSlot;
      const u16* from = args.atoms + static_cast<long long>(chunk) * kSlot / 2;
      for (int i = thread(); i < kSlot / 16; i += kThreads)
        instr::cp_async_16(to + place<kUnits>(i / kUnits, i % kUnits), from + i * 8, true);
    }
    instr::cp_async_commit();
  }

  // The best of a lane's scores of a patch: those of columns 2t and 2t + 1 of every mma. Comparing pairs and telling the
  // column at the end saves a quarter of the operations.
  struct Best {
    float score;  // the larger of the pair
    float first;  // that of column 2t
    int mma;
  };

  __device__ __forceinline__ void find_anchors() {
    const int lane = lane_id(), warp = warp_id();
    for (int chunk = 0; chunk < kStages - 1; ++chunk) load_atoms(chunk);
    u32 high[kM][2][4], low[kM][2][4];
    Best best[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      split_features((warp * kM + m) * 16, high[m], low[m]);
      best[m][0] = best[m][1] = {-1.0f, -1.0f, 0};
    }
    const int chunks = args.atom_count / kChunk;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      instr::cp_async_wait<kStages - 2>();
      __syncthreads();
      load_atoms(chunk + kStages - 1);
      const unsigned char* atoms = shared + chunk % kStages * kSlot;
#pragma unroll 2
      for (int n = 0; n < kChunk / 8; ++n) {
        u32 dh[4], dl[4];
        instr::ldmatrix_x4(dh, atoms + place<4>(n * 8 + lane % 8, lane / 8));
        instr::ldmatrix_x4(dl, atoms + place<4>(kChunk + n * 8 + lane % 8, lane / 8));
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          float score[4] = {};
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            Fp16::mma(score, low[m][k], dh[2 * k], dh[2 * k + 1]);
            Fp16::mma(score, high[m][k], dl[2 * k], dl[2 * k + 1]);
          }
#pragma unroll
          for (int k = 0; k < 2; ++k) Fp16::mma(score, high[m][k], dh[2 * k], dh[2 * k + 1]);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float a = fabsf(score[2 * half]), top = max(a, fabsf(score[2 * half + 1]));
            if (top > best[m][half].score) best[m][half] = {top, a, chunk * (kChunk / 8) + n};
          }
        }
      }
    }
    instr::cp_async_wait<0>();
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Best& b = best[m][half];
        float score = b.score;
        int atom = b.mma * 8 + lane % 4 * 2 + (b.first == b.score ? 0 : 1);
#pragma unroll
        for (int mask = 1; mask < 4; mask *= 2) {
          const float other = __shfl_xor_sync(~0u, score, mask);
          const int other_atom = __shfl_xor_sync(~0u, atom, mask);
          if (other > score || (other == score && other_atom < atom)) score = other, atom = other_atom;
        }
        if (lane % 4 == 0) anchors[(warp * kM + m) * 16 + lane / 4 + half * 8] = atom;
      }
    }
  }

  // Counting sort of the patches by atom. In which order patches of one atom come changes no result.
  __device__ __forceinline__ void sort_patches() {
    const int lane = lane_id(), warp = warp_id();
    for (int a = thread(); a < args.atom_count; a += kThreads) counts[a] = 0;
    __syncthreads();  // also: all anchors are there
    for (int p = thread(); p < kPatches; p += kThreads) atomicAdd(counts + anchors[p], 1);
    __syncthreads();
    const int each = (args.atom_count + kThreads - 1) / kThreads;
    const int begin = min(thread() * each, args.atom_count), end = min(begin + each, args.atom_count);
    int own = 0;
    for (int a = begin; a < end; ++a) own += counts[a];
    int before = own;  // of the warp's lanes up to this one, then without it, then of all threads
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, before, step);
      if (lane >= step) before += other;
    }
    if (lane == 31) totals[warp] = before;
    before -= own;
    __syncthreads();
    for (int i = 0; i < warp; ++i) before += totals[i];
    for (int a = begin; a < end; ++a) {
      const int count = counts[a];
      counts[a] = before;
      before += count;
    }
    __syncthreads();
    for (int p = thread(); p < kPatches; p += kThreads) order[atomicAdd(counts + anchors[p], 1)] = p;
  }

  // Adds to each cell of the tile the detail of the patch that has it as its cell (down, across).
  __device__ __forceinline__ void add_details(float* cells, int down, int across) {
    for (int item = thread(); item < kPatches / kSpan * kCell; item += kThreads) {
      const int pixel = item % kCell, first = item / kCell * kSpan;
      int held = -1;
      float row[kFeatures] = {};
#pragma unroll 1
      for (int i = 0; i < kSpan; ++i) {
        const int p = order[first + i];
        const int cell_y = p / kColumns + down - 2, cell_x = p % kColumns + across - 2;
        if (cell_y < 0 || cell_y >= kTileRows || cell_x < 0 || cell_x >= kTileColumns) continue;
        if (anchors[p] != held) {
          held = anchors[p];
          const long long at = ((static_cast<long long>(held) * 9 + down * 3 + across) * kCell + pixel) * kFeatures;
          load_row(row, static_cast<const unsigned char*>(args.projections) + at * P::kBytes);
        }
        float sum[4] = {};
#pragma unroll
        for (int k = 0; k < kFeatures; k += 4) {
          const Words<4> f = load_words<4>(features + p * kStride + k);
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[j] += row[k + j] * bits_to_float(f.word[j]);
        }
        cells[(cell_y * kTileColumns + cell_x) * kCell + pixel] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
      }
    }
  }

  static __device__ __forceinline__ void load_row(float (&row)[kFeatures], const unsigned char* from) {
    constexpr int kWords = kFeatures * P::kBytes / 4;
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const Words<4> four = load_words<4>(from + i * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (P::kBytes == 2) {
          row[2 * (i + j) % kFeatures] = Fp16::low(four.word[j]);
          row[(2 * (i + j) + 1) % kFeatures] = Fp16::high(four.word[j]);
        } else {
          row[(i + j) % kFeatures] = bits_to_float(four.word[j]);
        }
      }
    }
  }

  __device__ __forceinline__ void run() {
    make_features();
    find_anchors();
    sort_patches();
    float* cells = reinterpret_cast<float*>(shared);
    for (int i = thread(); i < kTileRows * kTileColumns * kCell; i += kThreads) cells[i] = 0.0f;
    // From the last cell to the first: a pixel meets its patches from top left to bottom right, as on the CPU.
#pragma unroll 1
    for (int cell = 8; cell >= 0; --cell) {
      __syncthreads();
      add_details(cells, cell / 3, cell % 3);
    }
    __syncthreads();
    constexpr int kWide = kTileColumns * kScale;
    for (int i = thread(); i < kTileRows * kScale * kWide; i += kThreads) {
      const int row = i / kWide, column = i % kWide;
      if (y * kScale + row >= args.height * kScale || x * kScale + column >= args.width * kScale) continue;
      const long long at =
          (static_cast<long long>(image) * args.height * kScale + y * kScale + row) * (args.width * kScale) +
          x * kScale + column;
      const int cell = row / kScale * kTileColumns + column / kScale;
      const float sum = cells[cell * kCell + row % kScale * kScale + column % kScale];
      T::store(args.out, at, T::load(args.base, at) + sum * (1.0f / 9.0f));
    }
  }
};

}  // namespace fastsr

extern "C" __global__ void __launch_bounds__(fastsr::kThreads, 2)
    anchored_regression(const void* x, const void* base, const float* filters, const fastsr::u16* atoms,
                        const void* projections, void* out, int images, int height, int width, int atom_count) {
  FASTSR_DYNAMIC_SHARED(shared);
  const fastsr::AnchoredArgs args = {x, base, filters, atoms, projections, out, images, height, width, atom_count};
  fastsr::Anchored<fastsr::FASTSR_T, fastsr::FASTSR_P, FASTSR_SCALE, FASTSR_FILTER>(args, shared).run();
}
