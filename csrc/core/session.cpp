// SPDX-License-Identifier: Apache-2.0
#include "core/session.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "core/isa.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/session_parts.h"
#include "core/status.h"

namespace fastsr {

namespace {

constexpr int64_t kNarrow = 4;  // values of at most this many channels are kept as whole planes
// Writing and reading a number of a plane takes as long as about this many multiply-adds (10 GB/s).
constexpr int64_t kPlaneWork = 80;
constexpr int64_t kSide = 48;  // of a task's tile, about
// A value of which a tile takes more than this does not stay in L2 beside another one: kept in scratch it costs as much.
constexpr int64_t kLarge = 1 << 20;

void poison(void* p, size_t bytes) {
  float* f = static_cast<float*>(p);
  std::fill(f, f + bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
}

// Whether two steps of a kernel read the same tensors and pack them alike: a recursion's steps.
bool same_weights(const Spec& a, const Spec& b) {
  if (!a.weights[0].data) return false;
  for (int i = 0; i < 3; ++i)
    if (a.weights[i].data != b.weights[i].data) return false;
  return a.channels_in == b.channels_in && a.channels_out == b.channels_out && a.kernel == b.kernel &&
         a.scale == b.scale && a.patch == b.patch && a.features == b.features && a.atoms == b.atoms;
}

// A value's rows in scratch while a task goes down its tile: those from `rect.y0` that are made, up to `rect.y1`.
struct Rows {
  View view;
  bool begun = false;

  // Makes room for what a band needs: rows that it needs no more leave, those made already move to the top. Returns the
  // rectangle still to be made.
  Rect slide(const Rect& need, const Blocks& blocks) {
    const int64_t end = ceil_div(need.y1 - blocks.y, blocks.rows) * blocks.rows + blocks.y;  // no block in two bands
    const int64_t made = begun ? std::max(need.y0, view.rect.y1) : need.y0;
    const int64_t by = need.y0 - view.rect.y0;
    if (begun && by > 0 && made > need.y0)
      for (int64_t c = 0; c < view.channels; ++c) {
        float* to = view.data + c * view.channel_stride;
        std::memmove(to, to + by * view.row_stride,
                     sizeof(float) * static_cast<size_t>((made - need.y0) * view.row_stride));
      }
    begun = true;
    view.rect = {need.y0, need.x0, std::max(made, end), need.x1};
    return {made, need.x0, view.rect.y1, need.x1};
  }
  View part(const Rect& rect) const {
    View v = view;
    v.data = at(view, 0, rect.y0, rect.x0);
    v.rect = rect;
    return v;
  }
};

}  // namespace

Session::Session(Graph graph, const Options& options)
    : graph_(std::move(graph)), radius_(fastsr::radius(graph_)), isa_(choose_isa(options.isa)), options_(options) {
  if (options.threads < 0 || options.threads > 1024)
    fail(Status::kBadInput, "threads=", options.threads, " is not from 0 to 1024");
  if (options.tile < 0) fail(Status::kBadInput, "tile=", options.tile, " is negative");
  if (options.memory_limit < 0) fail(Status::kBadInput, "memory_limit=", options.memory_limit, " is negative");
  if (options.bf16 && isa_ != "avx512bf16" && isa_ != "amx")
    fail(Status::kDevice, "precision 'bf16' needs a CPU with AVX-512-BF16 or AMX; this run has ", isa_);
  const char* const ways[] = {"", "direct", "columns", "tiles"};
  const auto way = std::find(std::begin(ways), std::end(ways), options.way);
  if (way == std::end(ways)) fail(Status::kBadInput, "way='", options.way, "' is not one of direct, columns, tiles");
  threads_ = options.threads ? options.threads : default_threads();
  for (Node& node : graph_.nodes) {
    Packed packed;
    packed.kernel = &find_kernel(node.rule->op, isa_);
    node.spec.choice = static_cast<Choice>(way - std::begin(ways));
    node.spec.bf16 = options.bf16 && packed.kernel->bf16 && packed.kernel->bf16(node.spec);
    for (size_t i = 0; i < packed_.size() && !packed.weights; ++i)
      if (same_weights(graph_.nodes[i].spec, node.spec) && packed_[i].kernel == packed.kernel) packed = packed_[i];
    if (packed.weights) {
      packed.bytes = 0;  // counted where they were packed
    } else {
      packed.bytes = packed.kernel->packed_bytes(node.spec);
      packed.weights = allocate(packed.bytes);
      packed.kernel->pack(node.spec, packed.weights.get());
    }
    packed_.push_back(std::move(packed));
  }
  for (Node& node : graph_.nodes)
    for (TensorRef& tensor : node.spec.weights) tensor.data = nullptr;  // the caller's memory may go now
  pair();
  cut();
}

// Keeps the values of which the maker and all readers take pairs of bfloat16 as such: half the bytes, and next to nothing
// to do before they are multiplied.
void Session::pair() {
  for (int v = graph_.inputs; v < graph_.out(); ++v) {
    const auto takes = [&](size_t i) {
      const Kernel& kernel = *packed_[i].kernel;
      return kernel.pairs && kernel.pairs(graph_.nodes[i].spec);
    };
    bool all = true;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      if (node.out == v || std::count(node.inputs.begin(), node.inputs.end(), v)) all = all && takes(i);
    }
    if (!all) continue;
    for (Node& node : graph_.nodes) {
      if (node.out == v) node.spec.pairs_out = true;
      if (node.inputs[0] == v) node.spec.pairs_in = true;
      if (node.inputs.size() > 1 && node.inputs[1] == v) node.spec.pairs_residual = true;
    }
    graph_.values[index(v)].channels = ceil_div(graph_.values[index(v)].channels, 2);
  }
}

Session::~Session() {
  for (std::atomic<Context*>& slot : rest_) delete slot.exchange(nullptr);
}

void Session::cut() {
  const int steps = static_cast<int>(graph_.nodes.size());
  std::vector<int> last_use(graph_.values.size(), -1);
  for (int i = 0; i < steps; ++i)
    for (int v : graph_.nodes[index(i)].inputs) last_use[index(v)] = i;
  // A segment ends with a value that is worth a plane, and where it can: all others still to be read must be planes. One
  // that is not, as a residual of many steps, then becomes one for the sake of those between.
  std::vector<bool> wanted(graph_.values.size(), false);
  for (bool again = true; again;) {
    again = false;
    segments_.clear();
    std::vector<bool> plane(graph_.values.size(), false);
    Segment segment{0, 0, {}, 0, 1};
    for (int i = 0; i < steps; ++i) {
      const int made = graph_.nodes[index(i)].out;
      const bool worth = wanted[index(made)] || worth_a_plane(segment.first, i);
      if (!worth && i + 1 < steps) continue;
      for (int v = graph_.inputs; v < made; ++v)
        if (last_use[index(v)] > i && !plane[index(v)]) {
          wanted[index(v)] = wanted[index(made)] = again = true;
          break;
        }
      if (again) break;
      plane[index(made)] = true;
      segment.last = i + 1;
      segment.out = made;
      for (int k = segment.first; k < segment.last; ++k)
        for (int v : graph_.nodes[index(k)].inputs)
          if (v < graph_.nodes[index(segment.first)].out &&
              std::find(segment.reads.begin(), segment.reads.end(), v) == segment.reads.end())
            segment.reads.push_back(v);
      segment.granule = graph_.nodes[index(i)].rule->granule(graph_.nodes[index(i)].spec);
      segments_.push_back(segment);
      segment = {i + 1, i + 1, {}, 0, 1};
    }
  }
  block();
}

// Whether to keep the output of step i, in a segment from `first`, as a plane: when that is cheaper than making a tile's
// halo of it again.
bool Session::worth_a_plane(int first, int i) const {
  const int64_t channels = graph_.nodes[index(i)].spec.channels_out;
  if (channels <= kNarrow) return true;
  if (channels * (kSide + 2) * (kSide + 2) * static_cast<int64_t>(sizeof(float)) > kLarge) return true;
  const auto side_at = [&](int k) { return kSide * graph_.values[index(graph_.nodes[index(k)].out)].scale; };
  const int64_t here = side_at(i), steps = static_cast<int64_t>(graph_.nodes.size());
  // A step behind it that reads further than its output makes the tile's halo, of everything since the last plane.
  int64_t reach = 0;
  for (int k = i + 1; k < steps && !reach; ++k) {
    const Rect need =
        graph_.nodes[index(k)].rule->needs(graph_.nodes[index(k)].spec, 0, {kSide, kSide, kSide + 1, kSide + 1});
    reach = (height(need) - 1) / 2;
  }
  double work = 0;
  for (int k = first; k <= i; ++k) {
    const Node& node = graph_.nodes[index(k)];
    const double part = static_cast<double>(side_at(k)) / static_cast<double>(here);
    work +=
        static_cast<double>(packed_[index(k)].kernel->work(node.spec, {0, 0, 96, 96})) / (96.0 * 96.0) * part * part;
  }
  return work * 4.0 * static_cast<double>(reach) / kSide > static_cast<double>(kPlaneWork * channels);
}

// Lets kernels compute in blocks, placed so that the blocks of a value begin where most tiles of it begin.
void Session::block() {
  for (const Segment& segment : segments_) {
    const int64_t far = 720720 * segment.granule;
    const std::vector<Rect> need = needs_of(graph_, segment.first, segment.last, {far, far, far + 1, far + 1});
    for (int i = segment.first; i < segment.last; ++i) {
      Spec& spec = graph_.nodes[index(i)].spec;
      const Kernel& kernel = *packed_[index(i)].kernel;
      const Rect& from = need[index(graph_.nodes[index(i)].out)];
      Blocks blocks = kernel.blocks ? kernel.blocks(spec) : Blocks{};
      blocks.y = from.y0 - floor_div(from.y0, blocks.rows) * blocks.rows;
      blocks.x = from.x0 - floor_div(from.x0, blocks.columns) * blocks.columns;
      spec.blocks = blocks;
    }
  }
}

// Whether value v is read by kernels that make no use of a border around it, as sums and streams.
bool Session::streamed(const Segment& segment, int v) const {
  for (int i = segment.first; i < segment.last; ++i) {
    const Node& node = graph_.nodes[index(i)];
    const Kernel& kernel = *packed_[index(i)].kernel;
    if (node.inputs[0] == v && !(kernel.streams && kernel.streams(node.spec))) return false;
  }
  return true;
}

std::unique_ptr<Session::Context> Session::acquire(int64_t h, int64_t w) {
  std::unique_ptr<Context> context;
  for (std::atomic<Context*>& slot : rest_) {
    context.reset(slot.exchange(nullptr));
    if (context) break;
  }
  if (!context) context = std::make_unique<Context>();
  if (context->layout.h != h || context->layout.w != w) context->layout = choose(h, w);
  const Layout& layout = context->layout;
  const size_t scratch = static_cast<size_t>(threads_) * aligned(layout.scratch_bytes);
  if (context->planes_bytes < layout.planes_bytes) {
    context->planes.reset();
    context->planes = allocate(layout.planes_bytes);
    context->planes_bytes = layout.planes_bytes;
  }
  if (context->scratch_bytes < scratch) {
    context->scratch.reset();
    context->scratch = allocate(scratch);
    context->scratch_bytes = scratch;
  }
  return context;
}

void Session::release(std::unique_ptr<Context> context) {
  for (std::atomic<Context*>& slot : rest_) {
    Context* expected = nullptr;
    if (slot.compare_exchange_strong(expected, context.get())) {
      context.release();
      return;
    }
  }
}

void Session::run(const std::vector<const float*>& inputs, int64_t h, int64_t w, float* out) {
  std::unique_ptr<Context> context = acquire(h, w);
  const Layout& l = context->layout;
  Frame frame{&l, context.get(), std::vector<View>(graph_.values.size())};
  const auto dense = [&](float* data, const Extent& e) {
    return View{data, e.height * e.width, e.width, e.channels, {0, 0, e.height, e.width}};
  };
  for (int v = 0; v < graph_.inputs; ++v)  // only ever read: the view type is shared with outputs
    frame.views[index(v)] = dense(const_cast<float*>(inputs[index(v)]), in_shape(v, h, w));
  frame.views.back() = dense(out, out_shape(h, w));
  const Grid grid({0, 0, h, w}, l.tile_h, l.tile_w);
  for (int64_t i = 0; i < grid.count(); ++i) run_tile(frame, grid[i]);
  release(std::move(context));
}

// One outer tile through all segments. `lr` is the part of the output to make, in LR pixels.
void Session::run_tile(const Frame& outer, const Rect& lr) {
  Frame frame = outer;
  const Layout& l = *frame.layout;
  const int64_t s = graph_.scale;
  const std::vector<Rect> need =
      needs_of(graph_, 0, static_cast<int>(graph_.nodes.size()), {lr.y0 * s, lr.x0 * s, lr.y1 * s, lr.x1 * s});
  if (options_.poison) poison(frame.context->planes.get(), frame.context->planes_bytes);
  for (size_t k = 0; k < segments_.size(); ++k) {
    const Segment& segment = segments_[k];
    const Extent e = graph_.extent(segment.out, l.h, l.w);
    const Rect area = intersect(need[index(segment.out)], {0, 0, e.height, e.width});
    if (segment.out != graph_.out()) {
      frame.views[index(segment.out)] = plane(
          reinterpret_cast<float*>(frame.context->planes.get() + l.plane_offset[index(segment.out)]), e.channels, area);
    }
    const Grid grid(area, l.task[k].height, l.task[k].width);
    std::vector<int64_t> order;
    if (options_.shuffle) {
      for (int64_t i = 0; i < grid.count(); ++i) order.push_back(i);
      std::shuffle(order.begin(), order.end(), std::mt19937(options_.shuffle));
    }
    parallel_for(grid.count(), threads_, [&](int64_t i, int worker) {
      unsigned char* scratch = frame.context->scratch.get() + static_cast<size_t>(worker) * aligned(l.scratch_bytes);
      if (options_.poison) poison(scratch, l.scratch_bytes);
      run_task(frame, segment, grid[order.empty() ? i : order[static_cast<size_t>(i)]], scratch);
    });
  }
}

void Session::run_task(const Frame& frame, const Segment& segment, const Rect& out, unsigned char* scratch) {
  const Layout& l = *frame.layout;
  const size_t k = static_cast<size_t>(&segment - segments_.data());
  const std::vector<Room>& rooms = l.rooms[k];
  const int64_t band = l.task[k].band;
  // The border a value shows is that of the step which reads beyond it.
  const auto border_of = [&](int v) {
    for (int i = segment.first; i < segment.last; ++i)
      if (graph_.nodes[index(i)].inputs[0] == v) return graph_.nodes[index(i)].spec.border;
    return Border::kZero;
  };
  std::vector<Rows> rows(graph_.values.size());
  std::vector<int> copied;
  const auto begin = [&](int v) {
    const Room& room = rooms[index(v)];
    rows[index(v)].view = {reinterpret_cast<float*>(scratch + room.offset),
                           room.channel_stride,
                           room.row_stride,
                           graph_.values[index(v)].channels,
                           {}};
  };
  const std::vector<Rect> whole = needs_of(graph_, segment.first, segment.last, out);
  for (int v : segment.reads) {
    const Extent e = graph_.extent(v, l.h, l.w);
    // A plane is read where it lies unless its border is; the caller's inputs have no room to read past a row's end.
    if (v >= graph_.inputs && (streamed(segment, v) || contains({0, 0, e.height, e.width}, whole[index(v)]))) {
      rows[index(v)].view = frame.views[index(v)];
    } else {
      begin(v);
      copied.push_back(v);
    }
  }
  for (int i = segment.first; i + 1 < segment.last; ++i) begin(graph_.nodes[index(i)].out);
  rows[index(segment.out)].view = frame.views[index(segment.out)];
  for (int64_t y = out.y0, next; y < out.y1; y = next) {
    next = std::min(out.y1, (floor_div(y, band) + 1) * band);
    const std::vector<Rect> need = needs_of(graph_, segment.first, segment.last, {y, out.x0, next, out.x1});
    for (int v : copied) {
      const Extent e = graph_.extent(v, l.h, l.w);
      const Rect fresh = rows[index(v)].slide(need[index(v)], Blocks{});
      if (height(fresh) > 0)
        copy_with_border(frame.views[index(v)], rows[index(v)].part(fresh), e.height, e.width, border_of(v));
    }
    for (int i = segment.first; i < segment.last; ++i) {
      const Node& node = graph_.nodes[index(i)];
      const Extent e = graph_.extent(node.out, l.h, l.w);
      Rows& to = rows[index(node.out)];
      const bool last = node.out == segment.out;
      const Rect fresh = last ? Rect{y, out.x0, next, out.x1} : to.slide(need[index(node.out)], node.spec.blocks);
      const View made = to.part(intersect(fresh, {0, 0, e.height, e.width}));
      if (height(made.rect) > 0) {
        View in[2];
        for (size_t n = 0; n < node.inputs.size(); ++n) {
          const Rows& from = rows[index(node.inputs[n])];
          in[n] = from.part(intersect(node.rule->needs(node.spec, static_cast<int>(n), made.rect), from.view.rect));
        }
        const bool large = last && beyond_caches(e.channels, e.height, e.width);
        packed_[index(i)].kernel->run({&node.spec, packed_[index(i)].weights.get(), in, made, e,
                                       scratch + rooms[graph_.values.size() + index(i)].offset, large});
      }
      if (!last) fill_border(to.view, e.height, e.width, border_of(node.out));
    }
  }
}

}  // namespace fastsr
