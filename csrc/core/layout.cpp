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

constexpr size_t kSlack = 64;      // floats that kernels may read past a row (core/kernel.h)
constexpr double kTaskWork = 2e5;  // multiply-adds that beginning a task is worth: about 10 us, measured
constexpr double kRowWork = 100;   // and a row of a channel: its first cache lines come late
const Rect kNothing{INT64_MAX, INT64_MAX, INT64_MIN, INT64_MIN};
constexpr size_t kPlanesBytes = size_t{128} << 20;
constexpr int64_t kHalo = 16;  // a strip has at least so many times the radius: an eighth of the work twice at most
constexpr int64_t kMaxPixels = int64_t{1} << 31;

size_t buffer_bytes(size_t floats) { return aligned(sizeof(float) * (floats + kSlack)); }

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
    const Blocks& blocks = graph_.nodes[index(i)].spec.blocks;
    slack.height += blocks.rows > 1 ? blocks.rows : 0;  // what begins off a block's start may touch one more
    slack.width += blocks.columns > 1 ? blocks.columns : 0;
  }
  return slack;
}

// A tile of this size may begin anywhere, so its rectangles are taken at a place that is a multiple of everything.
static Rect far_tile(int64_t granule, int64_t rows, int64_t columns) {
  const int64_t far = 720720 * granule;
  return {far, far, far + rows, far + columns};
}

// Places the segment's values and its kernels' scratch in one worker's scratch, for bands of this size. What lives
// throughout a task has a place of its own; kernels' scratch does not outlive a step.
size_t Session::plan_scratch(const Segment& segment, int64_t rows, int64_t columns, std::vector<Room>& rooms) const {
  const std::vector<Rect> need =
      needs_of(graph_, segment.first, segment.last, far_tile(segment.granule, rows, columns));
  const size_t values = graph_.values.size();
  const Extent more = slack(segment.first, segment.last);
  rooms.assign(values + graph_.nodes.size(), Room{});
  size_t top = 0;
  const auto room = [&](int v) {
    const int64_t h = height(need[index(v)]) + more.height, stride = row_stride(width(need[index(v)]) + more.width);
    rooms[index(v)] = {top, stride, channel_stride(h, stride)};
    top += buffer_bytes(static_cast<size_t>(graph_.values[index(v)].channels * channel_stride(h, stride)));
  };
  for (int v : segment.reads)
    if (v < graph_.inputs || !streamed(segment, v)) room(v);
  for (int i = segment.first; i + 1 < segment.last; ++i) room(graph_.nodes[index(i)].out);
  size_t most = 0;
  for (int i = segment.first; i < segment.last; ++i) {
    const Node& node = graph_.nodes[index(i)];
    Rect made = need[index(node.out)];
    made.y1 += more.height;
    made.x1 += more.width;
    rooms[values + index(i)].offset = top;
    most = std::max(most, aligned(packed_[index(i)].kernel->scratch_bytes(node.spec, made)));
  }
  return top + most;
}

// Bytes that a band should find in L2: rows of the values between its steps, and of planes that two steps read.
int64_t Session::cached_bytes(const Segment& segment, int64_t rows, int64_t columns) const {
  const std::vector<Rect> need =
      needs_of(graph_, segment.first, segment.last, far_tile(segment.granule, rows, columns));
  const auto bytes = [&](int v) {
    return 4 * graph_.values[index(v)].channels * height(need[index(v)]) * width(need[index(v)]);
  };
  int64_t sum = 0;
  for (int v : segment.reads) {
    int64_t readers = 0;
    for (int i = segment.first; i < segment.last; ++i)
      readers += std::count(graph_.nodes[index(i)].inputs.begin(), graph_.nodes[index(i)].inputs.end(), v);
    if (v < graph_.inputs || readers > 1 || !streamed(segment, v)) sum += bytes(v);
  }
  for (int i = segment.first; i + 1 < segment.last; ++i) sum += bytes(graph_.nodes[index(i)].out);
  return sum;
}

// Multiply-adds, or what takes as long, of a band; of a task's first one with the rows that later bands find made.
double Session::work_of_band(const Segment& segment, int64_t rows, int64_t columns, bool first) const {
  const Rect out = far_tile(segment.granule, rows, columns);
  const std::vector<Rect> need = needs_of(graph_, segment.first, segment.last, out);
  const int64_t scale = graph_.values[index(segment.out)].scale;
  double work = 0;
  for (int i = segment.first; i < segment.last; ++i) {
    const Node& node = graph_.nodes[index(i)];
    Rect made = need[index(node.out)];
    if (!first) made.y1 = made.y0 + std::max<int64_t>(1, rows * graph_.values[index(node.out)].scale / scale);
    work += static_cast<double>(packed_[index(i)].kernel->work(node.spec, made)) +
            kRowWork * static_cast<double>(height(made) * (node.spec.channels_in + node.spec.channels_out));
  }
  return work;
}

// Chooses the tasks of a segment: the least work per pixel (halos made twice included) among bands whose values stay in
// L2, and tiles small enough that every thread gets its share.
void Session::plan_tasks(const Segment& segment, Layout& layout) const {
  const Extent e = graph_.extent(segment.out, layout.h, layout.w);
  const int64_t scale = graph_.values[index(segment.out)].scale;
  const int64_t area_h = std::min(e.height, layout.tile_h * scale);
  const int64_t area_w = std::min(e.width, layout.tile_w * scale);
  const int64_t g = segment.granule;
  int64_t block_rows = g, block_columns = g;
  for (int i = segment.first; i < segment.last; ++i) {
    block_rows = std::lcm(block_rows, graph_.nodes[index(i)].spec.blocks.rows);
    block_columns = std::lcm(block_columns, graph_.nodes[index(i)].spec.blocks.columns);
  }
  const auto sorted = [](std::vector<int64_t> sides) {
    std::sort(sides.begin(), sides.end());
    sides.erase(std::unique(sides.begin(), sides.end()), sides.end());
    return sides;
  };
  const auto up = [](int64_t n, int64_t to) { return (n + to - 1) / to * to; };
  // Few candidates suffice: the cost is flat around its minimum. Those of 16 k - 2 granules leave no lane idle in a
  // kernel that works on whole granules and two more (anchored_regression), or before a 3 x 3 convolution.
  std::vector<int64_t> bands, widths;
  for (int64_t side : {4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512}) {
    bands.push_back(std::min(up(side, block_rows), up(area_h, block_rows)));
    if (side >= 16) widths.push_back(std::min(up(side, block_columns), up(area_w, block_columns)));
  }
  if (g > 1)
    for (int64_t cells : {14, 30, 46, 62, 94, 126})
      for (std::vector<int64_t>* sides : {&bands, &widths}) sides->push_back(cells * g);
  for (int64_t parts : {1, 2, 3, 4, 6, 8}) widths.push_back(up(ceil_div(area_w, parts), block_columns));
  const double budget = static_cast<double>(l2_bytes()) * 5 / 8;
  const double area = static_cast<double>(area_h) * static_cast<double>(area_w);
  double best = std::numeric_limits<double>::infinity();
  Task task{bands[0], widths[0], bands[0]};
  for (int64_t width : sorted(widths))
    for (int64_t band : sorted(bands)) {
      const double first = work_of_band(segment, band, width, true), next = work_of_band(segment, band, width, false);
      double misses = static_cast<double>(cached_bytes(segment, band, width)) / budget;
      misses = misses > 1 ? 1 + 2 * (misses - 1) : 1;
      std::vector<int64_t> heights;
      for (int64_t parts : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32}) heights.push_back(up(ceil_div(area_h, parts), band));
      for (int64_t height : sorted(heights)) {
        const double work = first + next * static_cast<double>(height / band - 1) + kTaskWork;
        const int64_t count = ceil_div(area_h, height) * ceil_div(area_w, width);
        // Whole tiles over the area: what the last row and column of tiles waste is not counted, they are smaller.
        double cost = misses * work / static_cast<double>(height * width);
        if (threads_ > 1) {
          // At worst all but one thread wait for the last task. Equal tasks that all threads share out leave none over,
          // but more of them even out what else the machine does.
          const bool even = area_h % height == 0 && area_w % width == 0 && count % threads_ == 0;
          const double share =
              static_cast<double>(std::min(height, area_h) * std::min(width, area_w)) * threads_ / area;
          cost *= 1 + share * (even ? 0.2 : 0.8);
        }
        if (cost < best) {
          best = cost;
          task = {height, width, band};
        }
      }
    }
  layout.task.push_back(task);
  layout.rooms.emplace_back();
  layout.scratch_bytes =
      std::max(layout.scratch_bytes, plan_scratch(segment, task.band, task.width, layout.rooms.back()));
}

Session::Layout Session::layout(int64_t h, int64_t w, int64_t tile_h, int64_t tile_w) const {
  Layout layout;
  layout.h = h;
  layout.w = w;
  layout.tile_h = std::min(tile_h, h);
  layout.tile_w = std::min(tile_w, w);
  for (const Segment& segment : segments_) plan_tasks(segment, layout);
  layout.plane_offset.assign(graph_.values.size(), 0);
  // The planes between segments, at the size of the largest outer tile's needs.
  const int64_t s = graph_.scale;
  const int64_t th = layout.tile_h * s, tw = layout.tile_w * s;
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
    layout.plane_offset[index(v)] =
        places.place(buffer_bytes(plane_floats(e.channels, std::min(height(r) + more.height, e.height),
                                               std::min(width(r) + more.width, e.width))),
                     static_cast<int>(k), static_cast<int>(last));
  }
  layout.planes_bytes = places.top;
  return layout;
}

int64_t Session::memory(int64_t h, int64_t w) const { return static_cast<int64_t>(bytes(choose(h, w))); }

size_t Session::bytes(const Layout& l) const {
  size_t sum = l.planes_bytes + static_cast<size_t>(threads_) * aligned(l.scratch_bytes);
  for (const Packed& packed : packed_) sum += packed.bytes;
  return sum;
}

Extent Session::tile(int64_t h, int64_t w) const {
  const Layout l = choose(h, w);
  return {graph_.values[0].channels, l.tile_h, l.tile_w};
}

Session::Layout Session::choose(int64_t h, int64_t w) const {
  if (h < 1 || w < 1) fail(Status::kBadInput, "an image of ", w, "x", h, " pixels is empty");
  if (h > kMaxPixels / w / (graph_.scale * graph_.scale))
    fail(Status::kLimit, "an output of ", w * graph_.scale, "x", h * graph_.scale,
         " pixels is above the limit of 2^31");
  const bool limited = options_.memory_limit > 0;
  const auto fits = [&](const Layout& l) {
    return limited ? bytes(l) <= static_cast<size_t>(options_.memory_limit) : l.planes_bytes <= kPlanesBytes;
  };
  int64_t tile = options_.tile;
  if (!tile) {
    // The whole image; or strips of it, as long as their halos, made twice, are not much.
    Layout l = layout(h, w, h, w);
    const int64_t least = std::max<int64_t>(64, kHalo * radius_);
    for (int64_t parts = 2; !fits(l) && ceil_div(h, parts) >= least; ++parts) l = layout(h, w, ceil_div(h, parts), w);
    if (fits(l) || !limited) return l;
    tile = std::max(l.tile_h, l.tile_w) * 3 / 4;
  }
  for (;; tile = std::max<int64_t>(8, tile * 3 / 4)) {
    const Layout l = layout(h, w, tile, tile);
    if (fits(l) || !limited) return l;
    if (tile <= 8)
      fail(Status::kLimit, "memory_limit=", options_.memory_limit, " bytes is too low: the smallest tile needs ",
           bytes(l), " bytes with ", threads_, " threads; raise it or use fewer threads");
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
                      {node.spec.channels_out, e.height, e.width},  // a value of pairs has half as many rows
                      0,
                      node.rule->flops(node.spec, area),
                      0,
                      0,
                      0,
                      0};
    while (static_cast<int>(i) >= segments_[segment].last) ++segment;
    report.task_height = l.task[segment].height;
    report.task_width = l.task[segment].width;
    report.band = l.task[segment].band;
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
