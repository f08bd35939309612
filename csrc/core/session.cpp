// SPDX-License-Identifier: Apache-2.0
#include "core/session.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/isa.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/status.h"

namespace fastsr {

namespace {

constexpr int64_t kNarrow = 4;     // values of at most this many channels are kept as whole planes
constexpr int64_t kSlack = 64;     // floats that kernels may read past a row (core/kernel.h)
constexpr double kTaskWork = 2e5;  // multiply-adds that beginning a task is worth: about 10 us, measured
constexpr int64_t kMaxPixels = int64_t{1} << 31;
const Rect kNothing{INT64_MAX, INT64_MAX, INT64_MIN, INT64_MIN};

int64_t row_stride(int64_t w) { return (w + 15) / 16 * 16; }

size_t buffer_bytes(int64_t channels, int64_t h, int64_t w) {
  return aligned(sizeof(float) * static_cast<size_t>(channels * h * row_stride(w) + kSlack));
}

int64_t cache_bytes(int level) {
  static const int64_t bytes[] = {
      std::max<int64_t>(sysconf(_SC_LEVEL1_DCACHE_SIZE), 32 << 10),  // 0 or -1 where the system does not say
      std::max<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE), 256 << 10),
  };
  return bytes[level - 1];
}

void poison(void* p, size_t bytes) {
  float* f = static_cast<float*>(p);
  std::fill(f, f + bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
}

size_t index(int i) { return static_cast<size_t>(i); }

}  // namespace

struct Session::Packed {
  const Kernel* kernel;
  Block weights;
  size_t bytes;
  int64_t slice = 0;  // channels of its output that exist at a time, passed on to the next step; 0: all
};

struct Session::Segment {
  int first, last;         // steps [first, last)
  std::vector<int> reads;  // values made before it
  int out;                 // the value it makes
  int64_t granule;
};

struct Session::Layout {
  int64_t h = 0, w = 0, tile = 0;
  std::vector<size_t> plane_offset;  // per value; only narrow values between segments have one
  size_t planes_bytes = 0;
  size_t scratch_bytes = 0;                       // per worker
  std::vector<std::pair<int64_t, int64_t>> task;  // per segment: height, width of a task's tile of its output
  std::vector<std::vector<size_t>> offsets;       // per segment: scratch offset of each value it touches, then kernels'
};

struct Session::Context {
  Layout layout;  // of its last run: a stream of equal frames plans once
  Block planes, scratch;
  size_t planes_bytes = 0, scratch_bytes = 0;
};

struct Session::Frame {
  const Layout* layout;
  Context* context;
  std::vector<View> views;  // per value: input, output, or plane
};

Session::Session(const Plan& plan, const Weights& weights, const Options& options)
    : graph_(check_plan(plan, weights)), isa_(choose_isa(options.isa)), options_(options) {
  if (options.threads < 0 || options.threads > 1024)
    fail(Status::kBadInput, "threads=", options.threads, " is not from 0 to 1024");
  if (options.tile < 0) fail(Status::kBadInput, "tile=", options.tile, " is negative");
  if (options.memory_limit < 0) fail(Status::kBadInput, "memory_limit=", options.memory_limit, " is negative");
  threads_ = options.threads ? options.threads : default_threads();
  for (Node& node : graph_.nodes) {
    Packed packed;
    packed.kernel = &find_kernel(node.rule->op, isa_);
    packed.bytes = packed.kernel->packed_bytes(node.spec);
    packed.weights = allocate(packed.bytes);
    packed.kernel->pack(node.spec, packed.weights.get());
    for (TensorRef& tensor : node.spec.weights) tensor.data = nullptr;  // the caller's memory may go now
    packed_.push_back(std::move(packed));
  }
  cut();
}

Session::~Session() {
  for (std::atomic<Context*>& slot : rest_) delete slot.exchange(nullptr);
}

void Session::cut() {
  const int steps = static_cast<int>(graph_.nodes.size());
  // A value is an end of a segment when it is narrow and no wide value is alive across it.
  std::vector<int> last_use(graph_.values.size(), -1);
  for (int i = 0; i < steps; ++i)
    for (int v : graph_.nodes[index(i)].inputs) last_use[index(v)] = i;
  Segment segment{0, 0, {}, 0, 1};
  for (int i = 0; i < steps; ++i) {
    bool narrow = true;
    for (int v = 1; v <= graph_.nodes[index(i)].out; ++v)
      if (last_use[index(v)] > i && graph_.values[index(v)].channels > kNarrow) narrow = false;
    if (!narrow && i + 1 < steps) continue;
    segment.last = i + 1;
    for (int k = segment.first; k + 1 < segment.last; ++k) packed_[index(k)].slice = slice_of(k, last_use);
    segment.out = graph_.nodes[index(i)].out;
    for (int k = segment.first; k < segment.last; ++k)
      for (int v : graph_.nodes[index(k)].inputs)
        if ((v == 0 || v < graph_.nodes[index(segment.first)].out) &&
            std::find(segment.reads.begin(), segment.reads.end(), v) == segment.reads.end())
          segment.reads.push_back(v);
    segment.granule = graph_.nodes[index(i)].rule->granule(graph_.nodes[index(i)].spec);
    segments_.push_back(segment);
    segment = {i + 1, i + 1, {}, 0, 1};
  }
}

// The slices in which step i's output can go to step i + 1, which must be its only reader; 0: none.
int64_t Session::slice_of(int i, const std::vector<int>& last_use) const {
  const Node& node = graph_.nodes[index(i)];
  const Node& next = graph_.nodes[index(i) + 1];
  const Kernel& maker = *packed_[index(i)].kernel;
  const Kernel& reader = *packed_[index(i) + 1].kernel;
  if (next.inputs[0] != node.out || last_use[index(node.out)] != i + 1) return 0;
  if (next.inputs.size() == 2 && next.inputs[1] == node.out) return 0;
  // A maker that itself reads slices would be called once for each of them.
  if (i > 0 && packed_[index(i) - 1].slice && graph_.nodes[index(i) - 1].out == node.inputs[0]) return 0;
  if (!maker.slice || !reader.accumulates || !reader.accumulates(next.spec)) return 0;
  const int64_t slice = maker.slice(node.spec);
  return slice < node.spec.channels_out ? slice : 0;
}

// The rectangles of all values of a segment that its output rectangle reads.
static std::vector<Rect> needs_of(const Graph& graph, int first, int last, const Rect& out) {
  std::vector<Rect> need(graph.values.size(), kNothing);
  need[index(graph.nodes[index(last - 1)].out)] = out;
  for (int i = last - 1; i >= first; --i) {
    const Node& node = graph.nodes[index(i)];
    Rect& made = need[index(node.out)];
    // A value is made on whole granules, so that a cell is never split between two tiles.
    const int64_t g = node.rule->granule(node.spec);
    made = {floor_div(made.y0, g) * g, floor_div(made.x0, g) * g, ceil_div(made.y1, g) * g, ceil_div(made.x1, g) * g};
    for (size_t k = 0; k < node.inputs.size(); ++k)
      need[index(node.inputs[k])] =
          unite(need[index(node.inputs[k])], node.rule->needs(node.spec, static_cast<int>(k), made));
  }
  return need;
}

// Places the segment's values, and with `kernels` the kernels' scratch, in one worker's scratch, reusing the room of
// values no longer read.
size_t Session::plan_scratch(const Segment& segment, int64_t th, int64_t tw, bool kernels,
                             std::vector<size_t>* offsets) const {
  // A tile of this size may begin anywhere, so its rectangles are taken at a place that is a multiple of everything.
  const int64_t far = 720720 * segment.granule;
  const std::vector<Rect> need = needs_of(graph_, segment.first, segment.last, {far, far, far + th, far + tw});
  const size_t values = graph_.values.size();
  std::vector<int> last_use(values, -1);
  // Two steps joined by slices take turns: what either of them holds lives as long as both.
  const auto begin_of = [&](int i) { return i > segment.first && packed_[index(i) - 1].slice ? i - 1 : i; };
  const auto end_of = [&](int i) { return packed_[index(i)].slice ? i + 1 : i; };
  for (int i = segment.first; i < segment.last; ++i)
    for (int v : graph_.nodes[index(i)].inputs) last_use[index(v)] = std::max(last_use[index(v)], end_of(i));
  struct Item {
    size_t begin, end;
    int born, dies;
  };
  std::vector<Item> placed;
  size_t top = 0;
  const auto place = [&](size_t bytes, int born, int dies) {
    size_t begin = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (const Item& other : placed)
        if (born <= other.dies && other.born <= dies && begin < other.end && other.begin < begin + bytes) {
          begin = other.end;
          moved = true;
        }
    }
    placed.push_back({begin, begin + bytes, born, dies});
    top = std::max(top, begin + bytes);
    return begin;
  };
  if (offsets) offsets->assign(values + graph_.nodes.size(), 0);
  const auto room = [&](int v, int64_t channels, int born) {
    // Two more rows and columns: where a tile begins between two LR pixels it touches one more of them.
    const Rect& r = need[index(v)];
    const size_t at = place(buffer_bytes(channels, height(r) + 2, width(r) + 2), born, last_use[index(v)]);
    if (offsets) (*offsets)[index(v)] = at;
  };
  for (int v : segment.reads) room(v, graph_.values[index(v)].channels, segment.first);
  for (int i = segment.first; i < segment.last; ++i) {
    const Node& node = graph_.nodes[index(i)];
    const int64_t slice = packed_[index(i)].slice;
    if (node.out != segment.out) room(node.out, slice ? slice : node.spec.channels_out, begin_of(i));
    if (!kernels) continue;
    const size_t at = place(aligned(packed_[index(i)].kernel->scratch_bytes(node.spec, need[index(node.out)])),
                            begin_of(i), end_of(i));
    if (offsets) (*offsets)[values + index(i)] = at;
  }
  return top;
}

// Chooses the task tile of a segment: the least work per pixel (halo recomputed included) among the sizes whose
// values stay in L2, and small enough that every thread gets several tasks.
void Session::plan_tasks(const Segment& segment, Layout& layout) const {
  const Extent e = graph_.extent(segment.out, layout.h, layout.w);
  const int64_t scale = graph_.values[index(segment.out)].scale;
  const int64_t area_h = layout.tile ? std::min(e.height, layout.tile * scale) : e.height;
  const int64_t area_w = layout.tile ? std::min(e.width, layout.tile * scale) : e.width;
  const int64_t g = segment.granule;
  const auto up = [g](int64_t n) { return (n + g - 1) / g * g; };
  // Few candidates suffice: the cost is flat around its minimum. Those of 16 k - 2 granules leave no lane idle in a
  // kernel that works on whole granules and two more (anchored_regression), or before a 3 x 3 convolution.
  std::vector<int64_t> sides;
  for (int64_t side : {16, 32, 48, 64, 80, 96, 128, 144, 192, 256, 384, 512}) sides.push_back(up(side));
  for (int64_t cells : {14, 30, 46, 62, 94, 126}) sides.push_back(cells * g);
  std::sort(sides.begin(), sides.end());
  const int64_t wanted = threads_ == 1 ? 1 : 8 * threads_;
  double best = std::numeric_limits<double>::infinity();
  std::pair<int64_t, int64_t> task{up(16), up(16)};
  for (int64_t th : sides) {
    for (int64_t tw : sides) {
      if ((th > up(area_h) && th > sides[0]) || (tw > up(area_w) && tw > sides[0])) continue;
      const int64_t bytes = static_cast<int64_t>(plan_scratch(segment, th, tw, false, nullptr));
      const int64_t budget = cache_bytes(2) * 5 / 8;
      const std::vector<Rect> need = needs_of(graph_, segment.first, segment.last, {0, 0, th, tw});
      double work = kTaskWork, slices = 0;  // slices: their share of L1
      for (int i = segment.first; i < segment.last; ++i) {
        const Node& node = graph_.nodes[index(i)];
        work += static_cast<double>(packed_[index(i)].kernel->work(node.spec, need[index(node.out)])) +
                16.0 * static_cast<double>(height(need[index(node.out)]) * width(need[index(node.out)]));
        const Rect& r = need[index(node.out)];
        const int64_t streamed = packed_[index(i)].slice * height(r) * row_stride(width(r)) * 4;
        slices = std::max(slices, static_cast<double>(streamed) / static_cast<double>(cache_bytes(1)));
      }
      const int64_t count = ceil_div(area_h, th) * ceil_div(area_w, tw);
      // Whole tiles over the area: what the last row and column of tiles waste is not counted, they are smaller.
      double cost = work / static_cast<double>(th * tw);
      if (bytes > budget) cost *= 1.0 + 2.0 * (static_cast<double>(bytes) / static_cast<double>(budget) - 1.0);
      if (slices > 0.8) cost *= 1.0 + 0.3 * (slices - 0.8);
      if (count < wanted) cost *= 1.0 + 0.05 * static_cast<double>(wanted - count);
      if (cost < best) {
        best = cost;
        task = {th, tw};
      }
    }
  }
  layout.task.push_back(task);
  layout.offsets.emplace_back();
  layout.scratch_bytes =
      std::max(layout.scratch_bytes, plan_scratch(segment, task.first, task.second, true, &layout.offsets.back()));
}

Session::Layout Session::layout(int64_t h, int64_t w, int64_t tile) const {
  Layout layout;
  layout.h = h;
  layout.w = w;
  layout.tile = tile && (tile < h || tile < w) ? tile : 0;
  for (const Segment& segment : segments_) plan_tasks(segment, layout);
  layout.plane_offset.assign(graph_.values.size(), 0);
  // The planes between segments, at the size of the largest outer tile's needs.
  const int64_t s = graph_.scale;
  const int64_t th = (layout.tile ? std::min(tile, h) : h) * s, tw = (layout.tile ? std::min(tile, w) : w) * s;
  const int64_t far = 720720 * s;
  const std::vector<Rect> need =
      needs_of(graph_, 0, static_cast<int>(graph_.nodes.size()), {far, far, far + th, far + tw});
  for (const Segment& segment : segments_) {
    if (segment.out == graph_.out()) continue;
    const Extent e = graph_.extent(segment.out, h, w);
    const Rect& r = need[index(segment.out)];
    layout.plane_offset[index(segment.out)] = layout.planes_bytes;
    layout.planes_bytes += buffer_bytes(e.channels, std::min(height(r) + 2, e.height), std::min(width(r) + 2, e.width));
  }
  return layout;
}

int64_t Session::memory(int64_t h, int64_t w) const {
  const Layout l = choose(h, w);
  int64_t bytes = static_cast<int64_t>(l.planes_bytes) + threads_ * static_cast<int64_t>(aligned(l.scratch_bytes));
  for (const Packed& packed : packed_) bytes += static_cast<int64_t>(packed.bytes);
  return bytes;
}

int64_t Session::tile(int64_t h, int64_t w) const {
  const Layout l = choose(h, w);
  return l.tile ? l.tile : std::max(h, w);
}

Session::Layout Session::choose(int64_t h, int64_t w) const {
  if (h < 1 || w < 1) fail(Status::kBadInput, "an image of ", w, "x", h, " pixels is empty");
  if (h > kMaxPixels / w / (graph_.scale * graph_.scale))
    fail(Status::kLimit, "an output of ", w * graph_.scale, "x", h * graph_.scale,
         " pixels is above the limit of 2^31");
  Layout l = layout(h, w, options_.tile);
  if (!options_.memory_limit) return l;
  size_t fixed = 0;
  for (const Packed& packed : packed_) fixed += packed.bytes;
  int64_t tile = l.tile ? l.tile : std::max(h, w);
  for (;;) {
    const size_t bytes = fixed + l.planes_bytes + static_cast<size_t>(threads_) * aligned(l.scratch_bytes);
    if (bytes <= static_cast<size_t>(options_.memory_limit)) return l;
    if (tile <= 8)
      fail(Status::kLimit, "memory_limit=", options_.memory_limit, " bytes is too low: the smallest tile needs ", bytes,
           " bytes with ", threads_, " threads; raise it or use fewer threads");
    tile = std::max<int64_t>(8, tile * 3 / 4);
    l = layout(h, w, tile);
  }
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

void Session::run(const float* x, int64_t h, int64_t w, float* out) {
  std::unique_ptr<Context> context = acquire(h, w);
  const Layout& l = context->layout;
  Frame frame{&l, context.get(), std::vector<View>(graph_.values.size())};
  const Extent in = graph_.extent(0, h, w), made = graph_.extent(graph_.out(), h, w);
  // Only ever read: the view type is shared with outputs.
  frame.views[0] = {const_cast<float*>(x), h * w, w, in.channels, {0, 0, h, w}};
  frame.views.back() = {out, made.height * made.width, made.width, made.channels, {0, 0, made.height, made.width}};
  const Grid grid({0, 0, h, w}, l.tile ? l.tile : h, l.tile ? l.tile : w);
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
      const int64_t stride = row_stride(width(area));
      frame.views[index(segment.out)] = {
          reinterpret_cast<float*>(frame.context->planes.get() + l.plane_offset[index(segment.out)]),
          height(area) * stride, stride, e.channels, area};
    }
    const Grid grid(area, l.task[k].first, l.task[k].second);
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
  const std::vector<size_t>& offsets = l.offsets[static_cast<size_t>(&segment - segments_.data())];
  const std::vector<Rect> need = needs_of(graph_, segment.first, segment.last, out);
  std::vector<View> views(graph_.values.size());
  const auto local = [&](int v) {
    const int64_t stride = row_stride(width(need[index(v)]));
    return View{reinterpret_cast<float*>(scratch + offsets[index(v)]), height(need[index(v)]) * stride, stride,
                graph_.values[index(v)].channels, need[index(v)]};
  };
  // The border a value shows is that of the step which reads beyond it.
  const auto border_of = [&](int v) {
    for (int i = segment.first; i < segment.last; ++i)
      if (graph_.nodes[index(i)].inputs[0] == v) return graph_.nodes[index(i)].spec.border;
    return Border::kZero;
  };
  for (int v : segment.reads) {
    views[index(v)] = local(v);
    const Extent e = graph_.extent(v, l.h, l.w);
    copy_with_border(frame.views[index(v)], views[index(v)], e.height, e.width, border_of(v));
  }
  View in[2][2];  // of a step, and of the step it passes slices to
  const auto prepare = [&](int i, View* inputs) {
    const Node& node = graph_.nodes[index(i)];
    const Extent e = graph_.extent(node.out, l.h, l.w);
    const bool last = node.out == segment.out;
    views[index(node.out)] = last ? frame.views[index(node.out)] : local(node.out);
    View made = views[index(node.out)];
    made.rect = intersect(last ? out : need[index(node.out)], {0, 0, e.height, e.width});
    made.data = at(views[index(node.out)], 0, made.rect.y0, made.rect.x0);
    for (size_t k = 0; k < node.inputs.size(); ++k) {
      const View& source = views[index(node.inputs[k])];
      inputs[k] = source;
      inputs[k].rect = node.rule->needs(node.spec, static_cast<int>(k), made.rect);
      inputs[k].data = at(source, 0, inputs[k].rect.y0, inputs[k].rect.x0);
    }
    return Args{&node.spec,
                packed_[index(i)].weights.get(),
                inputs,
                made,
                e,
                scratch + offsets[graph_.values.size() + index(i)],
                {0, node.spec.channels_in},
                {0, node.spec.channels_out}};
  };
  const auto border = [&](int v, int64_t channels) {
    if (v == segment.out) return;
    View made = views[index(v)];
    made.channels = channels;
    const Extent e = graph_.extent(v, l.h, l.w);
    fill_border(made, e.height, e.width, border_of(v));
  };
  for (int i = segment.first; i < segment.last; ++i) {
    const Packed& packed = packed_[index(i)];
    const int made = graph_.nodes[index(i)].out;
    const int64_t channels = graph_.values[index(made)].channels;
    Args args = prepare(i, in[0]);
    if (!packed.slice) {
      packed.kernel->run(args);
      border(made, channels);
      continue;
    }
    Args next = prepare(i + 1, in[1]);
    for (int64_t c = 0; c < channels; c += packed.slice) {
      args.make = next.read = {c, std::min(c + packed.slice, channels)};
      packed.kernel->run(args);
      border(made, args.make.end - c);
      packed_[index(i) + 1].kernel->run(next);
    }
    ++i;
    border(graph_.nodes[index(i)].out, graph_.nodes[index(i)].spec.channels_out);
  }
}

std::vector<StepReport> Session::explain(int64_t h, int64_t w) const {
  std::vector<StepReport> reports;
  const Layout l = choose(h, w);
  size_t segment = 0;
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const Node& node = graph_.nodes[i];
    const Extent e = graph_.extent(node.out, h, w);
    const Rect area{0, 0, e.height, e.width};
    const int64_t far = 720720;
    const Rect need = node.rule->needs(node.spec, 0, {far, far, far + 1, far + 1});
    const int64_t up = node.rule->upscale(node.spec);
    StepReport report{node.rule->op,
                      graph_.values[index(node.out)].name,
                      std::string("cpu/") + packed_[i].kernel->isa,
                      e,
                      0,
                      node.rule->flops(node.spec, area),
                      0,
                      0,
                      0};
    while (static_cast<int>(i) >= segments_[segment].last) ++segment;
    report.task_height = l.task[segment].first;
    report.task_width = l.task[segment].second;
    report.radius = std::max(far / up - need.y0, need.y1 - far / up - 1);
    report.bytes = 4 * e.channels * e.height * e.width;
    for (int v : node.inputs) {
      const Extent r = graph_.extent(v, h, w);
      report.bytes += 4 * r.channels * r.height * r.width;
    }
    reports.push_back(report);
  }
  return reports;
}

}  // namespace fastsr
