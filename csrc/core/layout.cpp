// SPDX-License-Identifier: Apache-2.0
// What a run of one size will hold and where: outer tiles, task tiles, planes between segments, workers' scratch.
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/session_parts.h"
#include "core/status.h"

namespace fastsr {

namespace {

constexpr int64_t kSlack = 64;     // floats that kernels may read past a row (core/kernel.h)
constexpr double kTaskWork = 2e5;  // multiply-adds that beginning a task is worth: about 10 us, measured
const Rect kNothing{INT64_MAX, INT64_MAX, INT64_MIN, INT64_MIN};
constexpr size_t kPlanesBytes = size_t{128} << 20;
constexpr int64_t kMaxPixels = int64_t{1} << 31;

size_t buffer_bytes(int64_t channels, int64_t h, int64_t w) {
  return aligned(sizeof(float) * static_cast<size_t>(channels * h * row_stride(w) + kSlack));
}

int64_t l2_bytes() {
  static const int64_t bytes = std::max<int64_t>(sysconf(_SC_LEVEL2_CACHE_SIZE), 256 << 10);  // 0 or -1: not known
  return bytes;
}

// Buffers that live from one step to another share memory when they do not meet.
struct Places {
  struct Item {
    size_t begin, end;
    int born, dies;
  };
  std::vector<Item> items;
  size_t top = 0;

  // The first gap that is free from `born` to `dies`.
  size_t place(size_t bytes, int born, int dies) {
    size_t begin = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (const Item& other : items)
        if (born <= other.dies && other.born <= dies && begin < other.end && other.begin < begin + bytes) {
          begin = other.end;
          moved = true;
        }
    }
    items.push_back({begin, begin + bytes, born, dies});
    top = std::max(top, begin + bytes);
    return begin;
  }
};

}  // namespace

std::vector<Rect> needs_of(const Graph& graph, int first, int last, const Rect& out) {
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

// By how much blocks may make what a tile needs of steps [first, last) higher and wider than what one at their start
// needs. Two more rows and columns: where a tile begins between two LR pixels it touches one more of them.
Extent Session::slack(int first, int last) const {
  Extent slack{0, 2, 2};
  for (int i = first; i < last; ++i) {
    slack.height += graph_.nodes[index(i)].spec.blocks.rows - 1;
    slack.width += graph_.nodes[index(i)].spec.blocks.columns - 1;
  }
  return slack;
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
  for (int i = segment.first; i < segment.last; ++i)
    for (int v : graph_.nodes[index(i)].inputs) last_use[index(v)] = i;
  Places places;
  if (offsets) offsets->assign(values + graph_.nodes.size(), 0);
  const Extent more = slack(segment.first, segment.last);
  const auto room = [&](int v, int born) {
    const Rect& r = need[index(v)];
    const size_t at =
        places.place(buffer_bytes(graph_.values[index(v)].channels, height(r) + more.height, width(r) + more.width),
                     born, last_use[index(v)]);
    if (offsets) (*offsets)[index(v)] = at;
  };
  for (int v : segment.reads)
    if (v == 0 || !streamed(segment, v)) room(v, segment.first);
  for (int i = segment.first; i < segment.last; ++i) {
    const Node& node = graph_.nodes[index(i)];
    if (node.out != segment.out) room(node.out, i);
    if (!kernels) continue;
    const size_t at =
        places.place(aligned(packed_[index(i)].kernel->scratch_bytes(node.spec, need[index(node.out)])), i, i);
    if (offsets) (*offsets)[values + index(i)] = at;
  }
  return places.top;
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
  int64_t rows = 1, columns = 1;
  for (int i = segment.first; i < segment.last; ++i) {
    rows = std::lcm(rows, graph_.nodes[index(i)].spec.blocks.rows);
    columns = std::lcm(columns, graph_.nodes[index(i)].spec.blocks.columns);
  }
  for (int64_t th : sides) {
    if (g == 1 && th % rows != 0) continue;
    for (int64_t tw : sides) {
      if (g == 1 && tw % columns != 0) continue;
      if ((th > up(area_h) && th > sides[0]) || (tw > up(area_w) && tw > sides[0])) continue;
      const int64_t bytes = static_cast<int64_t>(plan_scratch(segment, th, tw, false, nullptr));
      const int64_t budget = l2_bytes() * 5 / 8;
      const std::vector<Rect> need = needs_of(graph_, segment.first, segment.last, {0, 0, th, tw});
      double work = kTaskWork;
      for (int i = segment.first; i < segment.last; ++i) {
        const Node& node = graph_.nodes[index(i)];
        work += static_cast<double>(packed_[index(i)].kernel->work(node.spec, need[index(node.out)])) +
                16.0 * static_cast<double>(height(need[index(node.out)]) * width(need[index(node.out)]));
      }
      const int64_t count = ceil_div(area_h, th) * ceil_div(area_w, tw);
      // Whole tiles over the area: what the last row and column of tiles waste is not counted, they are smaller.
      double cost = work / static_cast<double>(th * tw);
      if (bytes > budget) cost *= 1.0 + 2.0 * (static_cast<double>(bytes) / static_cast<double>(budget) - 1.0);
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
  const Extent more = slack(0, static_cast<int>(graph_.nodes.size()));
  // A plane's room is free again after the last segment that reads it.
  Places places;
  for (size_t k = 0; k < segments_.size(); ++k) {
    const int v = segments_[k].out;
    if (v == graph_.out()) continue;
    size_t last = k;
    for (size_t other = k + 1; other < segments_.size(); ++other)
      if (std::count(segments_[other].reads.begin(), segments_[other].reads.end(), v)) last = other;
    const Extent e = graph_.extent(v, h, w);
    const Rect& r = need[index(v)];
    layout.plane_offset[index(v)] = places.place(
        buffer_bytes(e.channels, std::min(height(r) + more.height, e.height), std::min(width(r) + more.width, e.width)),
        static_cast<int>(k), static_cast<int>(last));
  }
  layout.planes_bytes = places.top;
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
  if (!options_.memory_limit) {
    // Wide planes of a whole frame would take gigabytes, and their pages longer than a halo.
    for (int64_t tile = std::max(h, w) * 3 / 4; !options_.tile && l.planes_bytes > kPlanesBytes && tile >= 64;
         tile = tile * 3 / 4)
      l = layout(h, w, tile);
    return l;
  }
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

std::vector<StepReport> Session::explain(int64_t h, int64_t w) const {
  std::vector<StepReport> reports;
  const Layout l = choose(h, w);
  size_t segment = 0;
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const Node& node = graph_.nodes[i];
    const Extent e = graph_.extent(node.out, h, w);
    const Rect area{0, 0, e.height, e.width};
    const Kernel& kernel = *packed_[i].kernel;
    const int64_t far = 720720;
    Spec single = node.spec;
    single.blocks = Blocks{};
    const Rect need = node.rule->needs(single, 0, {far, far, far + 1, far + 1});
    const int64_t up = node.rule->upscale(node.spec);
    StepReport report{graph_.ops[index(node.step)],
                      graph_.values[index(node.out)].name,
                      std::string("cpu/") + kernel.isa + (kernel.way ? std::string("/") + kernel.way(node.spec) : ""),
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
    if (i && graph_.nodes[i - 1].step == node.step) {  // a part of the same step
      report.radius += reports.back().radius;
      report.flops += reports.back().flops;
      report.bytes += reports.back().bytes;
      reports.pop_back();
    }
    reports.push_back(report);
  }
  return reports;
}

}  // namespace fastsr
