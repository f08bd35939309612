// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <iterator>
#include <limits>

#include "core/isa.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/program.h"
#include "core/status.h"
#include "core/tasks.h"

namespace fastsr {

namespace {

constexpr int64_t kNarrow = 4;  // values of at most this many channels are kept as whole planes
// Writing and reading a number of a plane takes as long as about this many multiply-adds. Measured on a Zen 4 with spans of
// 28 and 48 channels (tasks of several layers against planes after each): 10 to 40 differ by 4 %, 80 is slower.
constexpr double kPlaneWork = 40;
constexpr int kLongest = 16;   // nodes of a segment
constexpr int64_t kSide = 48;  // of a task's tile, about
// A value of which a tile takes more than this does not stay in L2 beside another one: kept in scratch it costs as much.
constexpr int64_t kLarge = 1 << 20;
constexpr int64_t kFarImage = int64_t{1} << 40;  // of a size whose edges are never met
constexpr int64_t kFar = 720720;                 // in it: a place that is a multiple of every granule and block

bool same_tensor(const TensorRef& a, const TensorRef& b) {
  return a.data == b.data && a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

// Whether two steps' kernels write the same packed weights: a recursion's steps do.
bool same_packing(const Launch& a, const Spec& a_spec, const Launch& b, const Spec& b_spec) {
  if (a.kernel != b.kernel || !a_spec.weights[0].data) return false;
  if (a.kernel->packing && a.kernel->packing(a_spec) != a.kernel->packing(b_spec)) return false;
  for (int i = 0; i < 3; ++i)
    if (!same_tensor(a_spec.weights[i], b_spec.weights[i])) return false;
  return a_spec.channels_in == b_spec.channels_in && a_spec.channels_out == b_spec.channels_out &&
         a_spec.bf16 == b_spec.bf16 && a.kernel->packed_bytes(a_spec) == b.kernel->packed_bytes(b_spec);
}

// Packs the weights of `specs`, one per launch, into new memory.
void pack(std::vector<Launch>& launches, const std::vector<Spec>& specs) {
  for (size_t i = 0; i < launches.size(); ++i) {
    Launch& launch = launches[i];
    launch.packed.reset();
    for (size_t k = 0; k < i && !launch.packed; ++k)
      if (same_packing(launches[k], specs[k], launch, specs[i])) launch.packed = launches[k].packed;
    launch.packed_bytes = 0;
    if (launch.packed) continue;
    launch.packed_bytes = launch.kernel->packed_bytes(specs[i]);
    launch.packed = allocate(launch.packed_bytes);
    launch.kernel->pack(specs[i], launch.packed.get());
  }
}

void forget(Spec& spec) {  // the caller's memory, which may go once it is packed
  for (TensorRef& tensor : spec.weights) tensor.data = nullptr;
}

void choose_kernels(Program& program) {
  const Options& options = program.options;
  const char* const names[] = {"", "direct", "columns", "tiles", "tiles6"};
  const auto name = std::find(std::begin(names), std::end(names), options.algorithm);
  if (name == std::end(names))
    fail(Status::kBadInput, "algorithm='", options.algorithm, "' is not one of direct, columns, tiles, tiles6");
  for (const Node& node : program.graph.nodes) {
    Launch launch{&find_kernel(node.rule->op, program.isa), node.spec, nullptr, 0};
    launch.spec.algorithm = static_cast<Algorithm>(name - std::begin(names));
    launch.spec.bf16 = options.bf16 && launch.kernel->bf16 && launch.kernel->bf16(launch.spec);
    program.launches.push_back(launch);
  }
}

// Keeps the values of which the maker and all readers take pairs of bfloat16 as such: half the bytes, and next to nothing
// to do before they are multiplied.
void choose_pairs(Program& program) {
  const std::vector<Node>& nodes = program.graph.nodes;
  const auto channels = [&](const Node& node, size_t k) {
    return program.graph.values[index(node.uses[k].value)].channels;
  };
  for (const Value& value : program.graph.values) program.stored.push_back(value.channels);
  std::vector<bool> all(program.stored.size(), true);
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Launch& launch = program.launches[i];
    const bool takes = launch.kernel->pairs && launch.kernel->pairs(launch.spec);
    if (!takes) all[index(nodes[i].out)] = false;
    int64_t before = 0;  // channels of the inputs that are joined before this one
    for (size_t k = 0; k < nodes[i].uses.size(); ++k) {
      // Of joined inputs no pair may be of two: each begins at an even channel, and ends so or is the last.
      const int64_t joined = launch.spec.joined, place = static_cast<int64_t>(k), own = channels(nodes[i], k);
      const bool split = place < joined && (before % 2 != 0 || (own % 2 != 0 && place + 1 < joined));
      if (!takes || split) all[index(nodes[i].uses[k].value)] = false;
      before += own;
    }
  }
  for (int v = 0; v < static_cast<int>(all.size()); ++v)
    if (v < program.graph.inputs || v == program.graph.out()) all[index(v)] = false;
  for (size_t i = 0; i < nodes.size(); ++i) {
    Spec& spec = program.launches[i].spec;
    spec.pairs_out = all[index(nodes[i].out)];
    for (size_t k = 0; k < nodes[i].uses.size(); ++k) spec.pairs_in[k] = all[index(nodes[i].uses[k].value)];
  }
  for (size_t v = 0; v < all.size(); ++v)
    if (all[v]) program.stored[v] = ceil_div(program.stored[v], 2);
}

// Whether the output of node i is always kept as a plane: it costs next to nothing, or would not stay in L2 anyway.
bool always_a_plane(const Program& program, int i) {
  const int64_t channels = program.graph.nodes[index(i)].spec.channels_out;
  return channels <= kNarrow || channels * (kSide + 2) * (kSide + 2) * static_cast<int64_t>(sizeof(float)) > kLarge;
}

// The buffers of a segment: one per value that its steps read or make, more where its readers see different borders.
void lay_buffers(const Program& program, Segment& segment) {
  const Graph& graph = program.graph;
  std::vector<int> main(graph.values.size(), -1);  // the first buffer of a value
  for (int i = segment.first; i < segment.last; ++i) {
    const Node& node = graph.nodes[index(i)];
    const Kernel& kernel = *program.launches[index(i)].kernel;
    segment.reads.emplace_back();
    for (size_t k = 0; k < node.uses.size(); ++k) {
      const Use& use = node.uses[k];
      int& first = main[index(use.value)];
      if (first < 0) {
        first = static_cast<int>(segment.buffers.size());
        const Buffer::Origin origin = use.value < graph.inputs ? Buffer::kInput : Buffer::kPlane;
        segment.buffers.push_back({use.value, origin, false, Border::kZero, -1});
      }
      Buffer& buffer = segment.buffers[index(first)];
      int read = first;
      const bool streamed = kernel.streams && kernel.streams(program.launches[index(i)].spec);
      const bool outside = use.read == Read::kWindow && !(streamed && buffer.origin == Buffer::kPlane);
      if (outside && !buffer.bordered) {
        buffer.bordered = true;
        buffer.border = use.border;
      } else if (outside && buffer.border != use.border && !streamed) {
        const Buffer::Origin origin = buffer.origin == Buffer::kMade ? Buffer::kCopy : buffer.origin;
        read = -1;
        for (size_t b = 0; b < segment.buffers.size() && read < 0; ++b)
          if (segment.buffers[b].value == use.value && segment.buffers[b].bordered &&
              segment.buffers[b].border == use.border)
            read = static_cast<int>(b);
        if (read < 0) {
          read = static_cast<int>(segment.buffers.size());
          segment.buffers.push_back({use.value, origin, true, use.border, origin == Buffer::kCopy ? first : -1});
        }
      }
      segment.reads.back().push_back(read);
    }
    main[index(node.out)] = static_cast<int>(segment.buffers.size());
    segment.makes.push_back(main[index(node.out)]);
    segment.buffers.push_back({node.out, Buffer::kMade, false, Border::kZero, -1});
  }
}

Segment make_segment(const Program& program, int first, int last) {
  const Node& end = program.graph.nodes[index(last - 1)];
  Segment segment{};
  segment.first = first;
  segment.last = last;
  segment.out = end.out;
  segment.granule = end.rule->granule(end.spec);
  lay_buffers(program, segment);
  return segment;
}

// Multiply-adds, or what takes as long, of a segment per pixel of the input: its work with its halo, and half of what a
// plane costs for each that it reads and for the one that it writes.
double cost(const Program& program, const Segment& segment) {
  const auto pixels = [&](int value) {
    const double s = static_cast<double>(program.graph.values[index(value)].scale);
    return s * s;
  };
  const auto plane = [&](int value) {
    return kPlaneWork / 2 * static_cast<double>(program.stored[index(value)]) * pixels(value);
  };
  double sum = work_per_pixel(program, segment) * pixels(segment.out) + plane(segment.out);
  for (const Buffer& buffer : segment.buffers)
    if (buffer.origin == Buffer::kPlane) sum += plane(buffer.value);
  return sum;
}

// Cuts the graph where the whole costs least: at every value that is always a plane, and between those at the best of all
// places where nothing but the output of a segment is read after it.
void cut(Program& program) {
  const Graph& graph = program.graph;
  const int nodes = static_cast<int>(graph.nodes.size());
  std::vector<int> last_use(graph.values.size(), -1);
  for (int i = 0; i < nodes; ++i)
    for (const Use& use : graph.nodes[index(i)].uses) last_use[index(use.value)] = i;
  // least[i]: of the nodes before i; from[i]: where the last segment of the best cut of those begins.
  std::vector<double> least(index(nodes) + 1, std::numeric_limits<double>::infinity());
  std::vector<int> from(index(nodes) + 1, 0);
  least[0] = 0;
  for (int last = 1; last <= nodes; ++last) {
    int read_later = 0;  // values made in [first, last - 1) that are read after it
    for (int first = last - 1; first >= std::max(0, last - kLongest); --first) {
      if (first < last - 1) {
        if (always_a_plane(program, first)) break;
        read_later += last_use[index(graph.nodes[index(first)].out)] >= last ? 1 : 0;
      }
      if (read_later) continue;
      const double sum = least[index(first)] + cost(program, make_segment(program, first, last));
      if (sum < least[index(last)]) least[index(last)] = sum, from[index(last)] = first;
    }
  }
  for (int last = nodes; last > 0; last = from[index(last)])
    program.segments.insert(program.segments.begin(), make_segment(program, from[index(last)], last));
}

// Lets kernels compute in blocks, placed so that the blocks of a value begin where most tiles of it begin.
void place_blocks(Program& program) {
  for (const Segment& segment : program.segments) {
    const int64_t far = kFar * segment.granule;
    const Needs need = needs_of(program, segment, {far, far, far + 1, far + 1}, kFarImage, kFarImage);
    for (int i = segment.first; i < segment.last; ++i) {
      Launch& launch = program.launches[index(i)];
      const Rect& from = need.made[index(i - segment.first)];
      Blocks blocks = launch.kernel->blocks ? launch.kernel->blocks(launch.spec) : Blocks{};
      blocks.y = from.y0 - floor_div(from.y0, blocks.rows) * blocks.rows;
      blocks.x = from.x0 - floor_div(from.x0, blocks.columns) * blocks.columns;
      launch.spec.blocks = blocks;
    }
  }
}

}  // namespace

Program compile(Graph graph, const Options& options) {
  if (options.threads < 0 || options.threads > 1024)
    fail(Status::kBadInput, "threads=", options.threads, " is not from 0 to 1024");
  if (options.tile < 0) fail(Status::kBadInput, "tile=", options.tile, " is negative");
  if (options.memory_limit < 0) fail(Status::kBadInput, "memory_limit=", options.memory_limit, " is negative");
  Program program;
  program.graph = std::move(graph);
  program.options = options;
  program.isa = choose_isa(options.isa);
  if (options.bf16 && program.isa != "avx512bf16" && program.isa != "amx")
    fail(Status::kDevice, "precision 'bf16' needs a CPU with AVX-512-BF16 or AMX; this run has ", program.isa);
  program.threads = options.threads ? options.threads : default_threads();
  program.radius = radius(program.graph);
  choose_kernels(program);
  std::vector<Spec> specs;
  for (const Launch& launch : program.launches) specs.push_back(launch.spec);
  pack(program.launches, specs);
  for (Node& node : program.graph.nodes) forget(node.spec);
  for (Launch& launch : program.launches) forget(launch.spec);
  choose_pairs(program);
  cut(program);
  place_blocks(program);
  return program;
}

Program with_weights(const Program& program, const Weights& weights) {
  Program replaced = program;
  std::vector<Spec> specs;
  for (size_t i = 0; i < program.launches.size(); ++i) {
    const Node& node = program.graph.nodes[i];
    std::vector<int64_t> channels;
    for (const Use& use : node.uses) channels.push_back(program.graph.values[index(use.value)].channels);
    const Spec parsed = node.rule->parse(node.given, weights, channels);
    Spec spec = program.launches[i].spec;
    for (int k = 0; k < 3; ++k) {
      const TensorRef &now = parsed.weights[k], &before = spec.weights[k];
      if (now.rank != before.rank || !std::equal(now.shape, now.shape + now.rank, before.shape))
        fail(Status::kBadModel, node.given.op, ": the new weights have other shapes than those it was compiled for");
      spec.weights[k] = now;
    }
    specs.push_back(spec);
  }
  pack(replaced.launches, specs);
  return replaced;
}

}  // namespace fastsr
