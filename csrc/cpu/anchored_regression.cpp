// SPDX-License-Identifier: Apache-2.0
// anchored_regression   out = base + mean over 9 patches of P[argmax_a |d_a . f|] f,  f = filters * x   paper 000, Eq. 5
// shapes    x [1, h, w]  base, out [1, sh, sw]  filters [n1, f, f]  atoms [A, n1]  projections [A, m m, n1]   m = 3s, f32
// work      one task = one tile of s x s cells and the patches on it, one more cell each way. Per block of patches, in
//           L1: features, scores of all atoms, the winner. Then per tile: patches bucketed by atom, so that a matrix is
//           read once a tile; details; each cell sums its 9 details. Neither the [patches, A] scores nor a matrix per
//           patch ever exist.
// cost      2 n1 (f^2 + A + m^2) flops a patch, four fifths of it scores; reads and writes HW; docs/performance.md has
//           the measured share of the FMA peak
#include "core/kernel.h"
#include "cpu/simd.h"
#include "ops/anchored_regression.h"

namespace fastsr {
namespace {

// A patch none of whose features reaches this is flat: anchor 0, no detail. An 8-bit level makes features of 1e-3, fp32
// rounding of 1e-6.
constexpr float kFlat = 0x1p-16f;

}  // namespace
}  // namespace fastsr

#if defined(FASTSR_ISA_AVX512BF16) || defined(FASTSR_ISA_AMX)
#define FASTSR_COARSE_SEARCH
#include "cpu/anchored_search.h"
#endif

namespace fastsr {
namespace {

#if defined(FASTSR_AVX512)
// 8 x 3 sums, 3 loaded vectors and a broadcast: 28 of 32 registers.
constexpr int kGroup = 8, kWide = 3, kTogether = 8;
#else
constexpr int kGroup = 4, kWide = 2, kTogether = 4;
#endif
constexpr int kChunk = 3;               // vectors of a detail computed at once
constexpr int kBlock = kWide * kLanes;  // patches scored at once

// Sizes and offsets (in floats) of everything, from the spec alone.
struct Sizes {
  int64_t s, n, groups_n, taps, f, groups_a, detail, cell;
  int64_t filters, atoms, coarse, projections;

  explicit Sizes(const Spec& spec) {
    s = anchored_of(spec).scale;
    n = anchored_of(spec).features;
    f = anchored_of(spec).kernel;
    taps = f * f;
    groups_n = round_up(n, kGroup) / kGroup;
    groups_a = round_up(anchored_of(spec).atoms, kGroup) / kGroup;
    detail = round_up(anchored_of(spec).patch * anchored_of(spec).patch, kChunk * kLanes);
    cell = s * s;
    filters = 16;  // after the header
    atoms = round_up(filters + groups_n * taps * kGroup, 16);
    coarse = round_up(atoms + groups_a * n * kGroup + kLanes, 16);
    projections = coarse;
#if defined(FASTSR_COARSE_SEARCH)
    projections = round_up(coarse + CoarseSizes(n, groups_a * kGroup).total, 16);
#endif
  }
};

struct Header {
  int32_t halves;  // the projections are half floats
};

// Model files hold projections as half floats. They stay so in memory: at x3 5.9 MB, which every tile goes through.
bool are_halves(const TensorRef& t) {
  const int64_t count = t.shape[0] * t.shape[1] * t.shape[2];
  for (int64_t i = 0; i < count; ++i)
    if (half(to_half(t.data[i])) != t.data[i]) return false;
  return true;
}

size_t packed_bytes(const Spec& spec) {
  const Sizes z(spec);
  const size_t each = are_halves(spec.weights[2]) ? sizeof(uint16_t) : sizeof(float);
  return static_cast<size_t>(z.projections) * sizeof(float) +
         static_cast<size_t>(anchored_of(spec).atoms * z.n * z.detail) * each;
}

void pack(const Spec& spec, void* packed) {
  const Sizes z(spec);
  float* base = static_cast<float*>(packed);
  __builtin_memset(packed, 0, packed_bytes(spec));
  Header* header = static_cast<Header*>(packed);
  header->halves = are_halves(spec.weights[2]);
  const float* filters = spec.weights[0].data;  // [n][taps] -> [groups][taps][kGroup]
  for (int64_t k = 0; k < z.n; ++k)
    for (int64_t t = 0; t < z.taps; ++t)
      base[z.filters + (k / kGroup * z.taps + t) * kGroup + k % kGroup] = filters[k * z.taps + t];
  const float* atoms = spec.weights[1].data;  // [A][n] -> [groups][n][kGroup]; the atoms that fill up the last are 0
  for (int64_t a = 0; a < anchored_of(spec).atoms; ++a)
    for (int64_t k = 0; k < z.n; ++k) base[z.atoms + (a / kGroup * z.n + k) * kGroup + a % kGroup] = atoms[a * z.n + k];
#if defined(FASTSR_COARSE_SEARCH)
  pack_search(CoarseSizes(z.n, z.groups_a * kGroup), atoms, anchored_of(spec).atoms, base + z.coarse);
#endif
  // [A][m m][n] -> [A][n][detail], the pixels of a patch ordered by s x s cell so that a cell's detail is contiguous.
  const float* projections = spec.weights[2].data;
  float* floats = base + z.projections;
  uint16_t* halves = reinterpret_cast<uint16_t*>(floats);
  const int64_t m = anchored_of(spec).patch;
  for (int64_t a = 0; a < anchored_of(spec).atoms; ++a)
    for (int64_t y = 0; y < m; ++y)
      for (int64_t x = 0; x < m; ++x) {
        const int64_t at = (y / z.s * 3 + x / z.s) * z.cell + y % z.s * z.s + x % z.s;
        for (int64_t k = 0; k < z.n; ++k) {
          const float value = projections[(a * m * m + y * m + x) * z.n + k];
          if (header->halves) {
            halves[(a * z.n + k) * z.detail + at] = to_half(value);
          } else {
            floats[(a * z.n + k) * z.detail + at] = value;
          }
        }
      }
}

// Where a task keeps its parts, in floats from the start of its scratch.
struct ScratchLayout {
  int64_t rows, columns, vectors;  // of patches; vectors per row of patches
  int64_t block, top, coarse = 0, features, details, anchors, order, counts, total;

  ScratchLayout(const Spec& spec, const Rect& out) {
    const Sizes z(spec);
    rows = round_up(height(out), z.s) / z.s + 2;
    columns = round_up(width(out), z.s) / z.s + 2;
    vectors = round_up(columns, kLanes) / kLanes;
    const int64_t patches = rows * columns;
    total = 0;
    const auto take = [&](int64_t floats) {
      const int64_t at = total;
      total += round_up(floats, 16);
      return at;
    };
    block = take(z.groups_n * kGroup * kBlock);
    top = take(2 * kBlock);
#if defined(FASTSR_COARSE_SEARCH)
    coarse = take(search_scratch(CoarseSizes(z.n, z.groups_a * kGroup)));
#endif
    features = take(patches * z.n + kLanes);
    details = take(patches * z.detail + 64);
    anchors = take(patches);
    order = take(patches);
    counts = take(anchored_of(spec).atoms + 1);
  }
};

size_t scratch_bytes(const Spec& spec, const Rect&, const Rect& out) {
  return static_cast<size_t>(ScratchLayout(spec, out).total) * sizeof(float);
}

// Features of V vectors of patches; pixel[v] is where vector v's windows begin. Writes [n][kBlock].
template <int V>
FASTSR_INLINE void compute_features(const Sizes& z, int64_t row_stride, const float* filters, const float* const* pixel,
                                    float* block) {
  for (int64_t g = 0; g < z.groups_n; ++g) {
    vf sum[kGroup][V];
    for (int i = 0; i < kGroup; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] = set1(0.0f);
    const float* w = filters + g * z.taps * kGroup;
    for (int64_t dy = 0; dy < z.f; ++dy) {
      for (int64_t dx = 0; dx < z.f; ++dx, w += kGroup) {
        vf p[V];
        for (int v = 0; v < V; ++v) p[v] = load(pixel[v] + dy * row_stride + dx);
        for (int i = 0; i < kGroup; ++i) {
          const vf weight = set1(w[i]);
          for (int v = 0; v < V; ++v) sum[i][v] = fmadd(p[v], weight, sum[i][v]);
        }
      }
    }
    for (int i = 0; i < kGroup; ++i)
      for (int v = 0; v < V; ++v) store(block + (g * kGroup + i) * kBlock + v * kLanes, sum[i][v]);
  }
}

// Features of all of which |f_k| < kFlat are zero, exactly: there rounding would choose the anchor.
template <int V>
FASTSR_INLINE void flatten(const Sizes& z, float* block) {
  for (int v = 0; v < V; ++v) {
    vf largest = set1(0.0f);
    for (int64_t k = 0; k < z.n; ++k) largest = max(largest, abs(load(block + k * kBlock + v * kLanes)));
    const mask flat = greater(set1(kFlat), largest);
    if (!any(flat)) continue;
    for (int64_t k = 0; k < z.n; ++k) {
      float* f = block + k * kBlock + v * kLanes;
      store(f, select(flat, set1(0.0f), load(f)));
    }
  }
}

// For each lane the largest |score| among one group of atoms. A function of its own, so that its 24 sums, 3 vectors and
// a broadcast have all registers to themselves: inlined, the compiler spills sums in favour of the caller's state.
template <int V>
__attribute__((noinline)) void score_group(const float* w, const float* block, int64_t n, float* top) {
  vf sum[kGroup][V];
  for (int i = 0; i < kGroup; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = set1(0.0f);
  for (int64_t k = 0; k < n; ++k, w += kGroup, block += kBlock) {
    vf f[V];
    for (int v = 0; v < V; ++v) f[v] = load(block + v * kLanes);
    for (int i = 0; i < kGroup; ++i) {
      const vf atom = set1(w[i]);
      for (int v = 0; v < V; ++v) sum[i][v] = fmadd(f[v], atom, sum[i][v]);
    }
  }
  for (int v = 0; v < V; ++v) {
    vf largest = abs(sum[0][v]);
    for (int i = 1; i < kGroup; ++i) largest = max(largest, abs(sum[i][v]));
    store(top + v * kLanes, largest);
  }
}

// For each lane the group of kGroup atoms that holds the largest |score|, the first of them on a tie.
template <int V>
FASTSR_INLINE void best_groups(const Sizes& z, const float* atoms, const float* block, float* top, float* winner) {
  vf best[V], group[V];
  for (int v = 0; v < V; ++v) best[v] = set1(-1.0f), group[v] = set1(0.0f);
  for (int64_t g = 0; g < z.groups_a; ++g) {
    score_group<V>(atoms + g * z.n * kGroup, block, z.n, top);
    for (int v = 0; v < V; ++v) {
      const vf found = load(top + v * kLanes);
      const mask better = greater(found, best[v]);
      best[v] = select(better, found, best[v]);
      group[v] = select(better, set1(static_cast<float>(g)), group[v]);
    }
  }
  for (int v = 0; v < V; ++v) store(winner + v * kLanes, group[v]);
}

// Scores the winning group of N patches again, atoms in lanes and the same products in the same order, so the same
// bits, and takes the first atom of the largest |score|.
template <int N>
FASTSR_INLINE void find_anchors(const Sizes& z, const float* atoms, const float* block, const float* winner,
                                int32_t* anchor) {
  const float* w[N];
  vf sum[N];
  for (int i = 0; i < N; ++i) {
    w[i] = atoms + static_cast<int64_t>(winner[i]) * z.n * kGroup;
    sum[i] = set1(0.0f);
  }
  for (int64_t k = 0; k < z.n; ++k)
    for (int i = 0; i < N; ++i) sum[i] = fmadd(set1(block[k * kBlock + i]), load(w[i] + k * kGroup), sum[i]);
  for (int i = 0; i < N; ++i) {
    float score[kLanes];
    store(score, abs(sum[i]));
    int best = 0;
    for (int a = 1; a < kGroup; ++a)
      if (score[a] > score[best]) best = a;
    anchor[i] = static_cast<int32_t>(winner[i]) * kGroup + best;
  }
}

#if defined(FASTSR_COARSE_SEARCH)

// The same anchors, bit for bit, from coarse scores and a bound.
FASTSR_INLINE void search(const Sizes& z, const ScratchLayout& layout, const float* packed, int64_t,
                          const int64_t* real, float* scratch, int32_t* anchor) {
  uint16_t lanes[kWide];
  for (int v = 0; v < kWide; ++v) lanes[v] = static_cast<uint16_t>((1u << real[v]) - 1);
  search_anchors(CoarseSizes(z.n, z.groups_a * kGroup), packed + z.coarse, scratch + layout.block, lanes,
                 scratch + layout.coarse, anchor);
}

#else

// The anchors of a block of patches: all scores, the best group, then the best atom in it.
FASTSR_INLINE void search(const Sizes& z, const ScratchLayout& layout, const float* packed, int64_t used,
                          const int64_t* real, float* scratch, int32_t* anchor) {
  const float* block = scratch + layout.block;
  float* top = scratch + layout.top;
  float* winner = top + kBlock;
  if (used == 1) {
    best_groups<1>(z, packed + z.atoms, block, top, winner);
  } else {
    best_groups<kWide>(z, packed + z.atoms, block, top, winner);
  }
  for (int64_t v = 0; v < used; ++v) {
    int64_t i = v * kLanes;
    const int64_t end = i + real[v];
    for (; i + 4 <= end; i += 4) find_anchors<4>(z, packed + z.atoms, block + i, winner + i, anchor + i);
    for (; i < end; ++i) find_anchors<1>(z, packed + z.atoms, block + i, winner + i, anchor + i);
  }
}

#endif

// Features and anchors of all patches of the tile.
void anchor_patches(const View& x, const Sizes& z, const ScratchLayout& layout, const float* packed, float* scratch) {
  const int64_t count = layout.rows * layout.vectors;
  float* block = scratch + layout.block;
  float* features = scratch + layout.features;
  int32_t* anchors = reinterpret_cast<int32_t*>(scratch + layout.anchors);
  for (int64_t first_vector = 0; first_vector < count; first_vector += kWide) {
    const int64_t used = min(kWide, count - first_vector);
    const float* pixel[kWide];
    int64_t patch[kWide], real[kWide];  // first patch of each vector, and how many of its lanes are patches
    for (int64_t v = 0; v < kWide; ++v) {
      const int64_t vector = first_vector + min(v, used - 1);
      const int64_t row = vector / layout.vectors, j = vector % layout.vectors * kLanes;
      pixel[v] = at(x, 0, x.rect.y0 + row, x.rect.x0 + j);
      patch[v] = row * layout.columns + j;
      real[v] = v < used ? min(kLanes, layout.columns - j) : 0;
    }
    if (used == 1) {
      compute_features<1>(z, x.row_stride, packed + z.filters, pixel, block);
      flatten<1>(z, block);
    } else {
      compute_features<kWide>(z, x.row_stride, packed + z.filters, pixel, block);
      flatten<kWide>(z, block);
    }
    int32_t anchor[kBlock];
    search(z, layout, packed, used, real, scratch, anchor);
    for (int64_t v = 0; v < used; ++v) {
      for (int64_t i = 0; i < real[v]; ++i) anchors[patch[v] + i] = anchor[v * kLanes + i];
      for (int64_t k = 0; k < z.n; ++k)
        for (int64_t i = 0; i < real[v]; ++i) features[(patch[v] + i) * z.n + k] = block[k * kBlock + v * kLanes + i];
    }
  }
}

FASTSR_INLINE vf load_weights(const float* p) { return load(p); }
FASTSR_INLINE vf load_weights(const uint16_t* p) { return load_half(p); }

// Details of N patches anchored to one atom. Meanwhile the matrix needed next, if there is one, comes nearer.
template <int N, typename T>
FASTSR_INLINE void project(const Sizes& z, const T* matrix, const T* next, const float* features, float* details,
                           const int32_t* patches) {
  const float* f[N];
  for (int i = 0; i < N; ++i) f[i] = features + patches[i] * z.n;
  for (int64_t c = 0; c < z.detail; c += kChunk * kLanes) {
    vf sum[N][kChunk];
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < kChunk; ++v) sum[i][v] = set1(0.0f);
    for (int64_t k = 0; k < z.n; ++k) {
      vf p[kChunk];
      for (int v = 0; v < kChunk; ++v) p[v] = load_weights(matrix + k * z.detail + c + v * kLanes);
      if (next)
        for (int64_t ahead = 0; ahead < kChunk * kLanes; ahead += static_cast<int64_t>(64 / sizeof(T)))
          __builtin_prefetch(next + k * z.detail + c + ahead);
      for (int i = 0; i < N; ++i) {
        const vf weight = set1(f[i][k]);
        for (int v = 0; v < kChunk; ++v) sum[i][v] = fmadd(p[v], weight, sum[i][v]);
      }
    }
    for (int i = 0; i < N; ++i)
      for (int v = 0; v < kChunk; ++v) store(details + patches[i] * z.detail + c + v * kLanes, sum[i][v]);
  }
}

// Sorts the patches by atom (counting sort); end[a] becomes the end of atom a's bucket in `order`.
void bucket_patches(const Spec& spec, const ScratchLayout& layout, const int32_t* anchors, int32_t* order,
                    int32_t* end) {
  const int64_t patches = layout.rows * layout.columns;
  __builtin_memset(end, 0, static_cast<size_t>(anchored_of(spec).atoms + 1) * sizeof(int32_t));
  for (int64_t p = 0; p < patches; ++p) ++end[anchors[p] + 1];
  for (int64_t a = 0; a < anchored_of(spec).atoms; ++a) end[a + 1] += end[a];
  for (int64_t p = 0; p < patches; ++p) order[end[anchors[p]]++] = static_cast<int32_t>(p);
}

// Projects bucket by bucket: each matrix is read once a tile.
template <typename T>
void project_buckets(const Sizes& z, const T* projections, const float* features, float* details,
                     const int32_t* anchors, const int32_t* order, const int32_t* end, int64_t patches) {
  for (int64_t p = 0; p < patches;) {
    const int64_t atom = anchors[order[p]], stop = end[atom];
    const T* matrix = projections + atom * z.n * z.detail;
    const T* next = stop < patches ? projections + anchors[order[stop]] * z.n * z.detail : nullptr;
    for (; p + kTogether <= stop; p += kTogether)
      project<kTogether>(z, matrix, p + 2 * kTogether <= stop ? nullptr : next, features, details, order + p);
    if (p + 4 <= stop) project<4>(z, matrix, next, features, details, order + p), p += 4;
    if (p + 2 <= stop) project<2>(z, matrix, next, features, details, order + p), p += 2;
    if (p < stop) project<1>(z, matrix, next, features, details, order + p), p += 1;
  }
}

void project_patches(const Spec& spec, const Sizes& z, const ScratchLayout& layout, const float* packed,
                     float* scratch) {
  const int32_t* anchors = reinterpret_cast<const int32_t*>(scratch + layout.anchors);
  int32_t* order = reinterpret_cast<int32_t*>(scratch + layout.order);
  int32_t* end = reinterpret_cast<int32_t*>(scratch + layout.counts);
  bucket_patches(spec, layout, anchors, order, end);
  const float* features = scratch + layout.features;
  float* details = scratch + layout.details;
  const float* projections = packed + z.projections;
  if (reinterpret_cast<const Header*>(packed)->halves) {
    project_buckets(z, reinterpret_cast<const uint16_t*>(projections), features, details, anchors, order, end,
                    layout.rows * layout.columns);
  } else {
    project_buckets(z, projections, features, details, anchors, order, end, layout.rows * layout.columns);
  }
}

// Each cell adds the means of its 9 details to the base, always in the same order of patches.
void combine(const Args& args, const Sizes& z, const ScratchLayout& layout, const float* details) {
  const View& base = args.in[1];
  const View& out = args.out;
  const vf ninth = set1(1.0f / 9.0f);
  for (int64_t i = 0; i < layout.rows - 2; ++i) {
    for (int64_t j = 0; j < layout.columns - 2; ++j) {
      float mean[64 + kLanes];
      for (int64_t c = 0; c < z.cell; c += kLanes) {
        vf sum = set1(0.0f);
        for (int64_t a = 0; a < 3; ++a)
          for (int64_t b = 0; b < 3; ++b)
            sum = add(sum, load(details + ((i + a) * layout.columns + j + b) * z.detail +
                                ((2 - a) * 3 + 2 - b) * z.cell + c));
        store(mean + c, mul(sum, ninth));
      }
      const int64_t y0 = out.rect.y0 + i * z.s, x0 = out.rect.x0 + j * z.s;
      for (int64_t y = 0; y < min(z.s, out.rect.y1 - y0); ++y) {
        const float* from = at(base, 0, y0 + y, x0);
        float* to = at(out, 0, y0 + y, x0);
        for (int64_t k = 0; k < min(z.s, out.rect.x1 - x0); ++k) to[k] = from[k] + mean[y * z.s + k];
      }
    }
  }
}

// In multiply-adds: features, scores (coarse ones take a quarter of the time), details, and fetching a matrix from L3
// for every atom that occurs, about 20 a half float (12 GB/s). Larger tiles share it among more patches; that their
// details leave L2 costs little, they are written and read once.
int64_t work(const Spec& spec, const Rect& out) {
#if defined(FASTSR_COARSE_SEARCH)
  constexpr int64_t kScore = 4;
#else
  constexpr int64_t kScore = 1;
#endif
  const Sizes z(spec);
  const ScratchLayout layout(spec, out);
  const int64_t patches = layout.rows * layout.columns, lanes = layout.rows * layout.vectors * kLanes;
  const int64_t atoms = anchored_of(spec).atoms * patches / (patches + 2 * anchored_of(spec).atoms);
  return z.n * (lanes * (z.taps + anchored_of(spec).atoms / kScore) + (patches + 20 * atoms) * z.detail);
}

void run(const Args& args) {
  const Sizes z(*args.spec);
  const ScratchLayout layout(*args.spec, args.out.rect);
  const float* packed = static_cast<const float*>(args.packed);
  float* scratch = static_cast<float*>(args.scratch);
#if defined(FASTSR_COARSE_SEARCH)
  const CoarseUnit unit;
#endif
  anchor_patches(args.in[0], z, layout, packed, scratch);
  project_patches(*args.spec, z, layout, packed, scratch);
  combine(args, z, layout, scratch + layout.details);
}

}  // namespace
}  // namespace fastsr

FASTSR_KERNEL(anchored_regression) = {"anchored_regression", FASTSR_STRING(FASTSR_ISA), fastsr::packed_bytes,
                                      fastsr::pack,          fastsr::scratch_bytes,     fastsr::run,
                                      fastsr::work};
