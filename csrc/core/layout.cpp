// SPDX-License-Identifier: Apache-2.0
#include "core/layout.h"

#include "core/guard.h"
#include "core/limits.h"
#include "core/memory.h"
#include "core/status.h"
#include "core/tasks.h"
#include "core/tiles.h"

namespace fastsr {

namespace {

constexpr int64_t kInputSlack = 16;  // floats that a Source may write past a row (core/io.h)
constexpr size_t kPlanesBytes = size_t{128} << 20;
constexpr int64_t kHalo = 16;  // a strip has at least so many times the radius: an eighth of the work twice at most
constexpr int64_t kLeastTile = 8, kLeastAskedTile = 16;
constexpr int64_t kBeyondCaches = int64_t{48} << 20;

// Kernels may read 64 floats past a row (core/kernel.h): the guard.
size_t buffer_bytes(int64_t floats) { return aligned(sizeof(float) * static_cast<size_t>(floats)) + kGuard; }

int64_t row_stride_of(int64_t w) { return (w + 15) / 16 * 16; }

// Odd numbers of cache lines from a channel to the next, so that the channels of a pixel spread over the sets of a cache.
int64_t channel_stride_of(int64_t h, int64_t row) { return (h * row) | 16; }

int64_t plane_floats(int64_t channels, int64_t h, int64_t w) {
  return h * (channels * (row_stride_of(w) | 16) + 16) + channels * 16;
}

// Memory that lives from one segment to another is shared by what does not meet.
class Arena {
 public:
  // The first gap that is free from `born` to `dies`.
  size_t place(size_t bytes, int born, int dies) {
    size_t begin = 0;
    for (bool moved = true; moved;) {
      moved = false;
      for (const Item& other : items_)
        if (born <= other.dies && other.born <= dies && begin < other.end && other.begin < begin + bytes) {
          begin = other.end;
          moved = true;
        }
    }
    items_.push_back({begin, begin + bytes, born, dies});
    top_ = std::max(top_, begin + bytes);
    return begin;
  }
  size_t top() const { return top_; }

 private:
  struct Item {
    size_t begin, end;
    int born, dies;
  };
  std::vector<Item> items_;
  size_t top_ = 0;
};

// The largest sizes of one segment's rectangles over all bands of all tasks of all outer tiles.
struct Sizes {
  std::vector<Extent> buffer, in, made;  // in, made: per node, what its kernel reads first and writes

  Sizes(size_t buffers, size_t nodes) : buffer(buffers), in(nodes), made(nodes) {}
};

// Rows and columns do not depend on each other: all rows are looked at with one column of tasks, and all columns with one
// band.
struct Survey {
  const Program& program;
  int64_t h, w;
  std::vector<Sizes> sizes;   // per segment
  std::vector<Extent> plane;  // per value

  Survey(const Program& p, const Layout& layout) : program(p), h(layout.h), w(layout.w), plane(p.graph.values.size()) {
    for (const Segment& s : p.segments) sizes.emplace_back(s.buffers.size(), index(s.last - s.first));
    const Grid tiles({0, 0, h, w}, layout.tile_h, layout.tile_w);
    for (int64_t r = 0; r < tiles.rows; ++r) look(layout, tiles[r * tiles.columns], true);
    for (int64_t c = 0; c < tiles.columns; ++c) look(layout, tiles[c], false);
  }

 private:
  void look(const Layout& layout, const Rect& lr, bool rows) {
    std::vector<Rect> areas;
    Needs work;
    plane_areas(program, lr, h, w, areas, work);
    for (size_t k = 0; k < program.segments.size(); ++k) {
      const Segment& segment = program.segments[k];
      const Rect& area = areas[index(segment.out)];
      Extent& whole = plane[index(segment.out)];
      (rows ? whole.height : whole.width) =
          std::max(rows ? whole.height : whole.width, rows ? height(area) : width(area));
      const SegmentLayout& task = layout.segments[k];
      const Grid grid(area, task.height, task.width);
      if (rows) {
        for (int64_t r = 0; r < grid.rows; ++r) look_down(segment, grid[r * grid.columns], task.band, sizes[k]);
      } else {
        for (int64_t c = 0; c < grid.columns; ++c) {
          const Rect tile = grid[c];
          look_across(segment, {tile.y0, tile.x0, std::min(tile.y1, tile.y0 + task.band), tile.x1}, sizes[k]);
        }
      }
    }
  }

  void look_down(const Segment& segment, const Rect& task, int64_t band, Sizes& most) const {
    std::vector<int64_t> end(segment.buffers.size(), INT64_MIN);  // of the rows that a buffer holds
    Needs last, work;
    for_each_band(program, segment, task, band, h, w, last, work, [&](const Rect&, const Needs& need) {
      for (size_t b = 0; b < end.size(); ++b) {
        if (height(need.buffer[b]) <= 0) continue;
        end[b] = std::max(end[b], need.buffer[b].y1);
        most.buffer[b].height = std::max(most.buffer[b].height, end[b] - need.buffer[b].y0);
      }
      for (int i = segment.first; i < segment.last; ++i) {
        const size_t n = index(i - segment.first);
        most.made[n].height = std::max(most.made[n].height, height(need.made[n]));
        most.in[n].height = std::max(most.in[n].height, height(read_by(i, need.made[n])));
      }
    });
  }

  void look_across(const Segment& segment, const Rect& band, Sizes& most) const {
    const Needs need = needs_of(program, segment, band, h, w);
    for (size_t b = 0; b < need.buffer.size(); ++b)
      most.buffer[b].width = std::max(most.buffer[b].width, width(need.buffer[b]));
    for (int i = segment.first; i < segment.last; ++i) {
      const size_t n = index(i - segment.first);
      most.made[n].width = std::max(most.made[n].width, width(need.made[n]));
      most.in[n].width = std::max(most.in[n].width, width(read_by(i, need.made[n])));
    }
  }

  Rect read_by(int i, const Rect& made) const {
    return program.graph.nodes[index(i)].rule->needs(program.launches[index(i)].spec, 0, made);
  }
};

// Places a segment's buffers, which live throughout a task, and behind them what kernels work in.
void place_buffers(const Program& program, const Segment& segment, const Sizes& most, bool keeps_output,
                   SegmentLayout& layout) {
  size_t top = 0;
  layout.buffers.assign(segment.buffers.size(), Placement{});
  for (size_t b = 0; b < segment.buffers.size(); ++b) {
    const Buffer& buffer = segment.buffers[b];
    if (buffer.origin == Buffer::kPlane && !buffer.bordered) continue;  // read where it lies
    if (buffer.value == segment.out && !keeps_output) continue;         // written where it lies
    const int64_t row = row_stride_of(most.buffer[b].width + (buffer.origin == Buffer::kInput ? kInputSlack : 0));
    const int64_t channel = channel_stride_of(most.buffer[b].height, row);
    const size_t end = top + buffer_bytes(program.stored[index(buffer.value)] * channel);
    layout.buffers[b] = {top, end, row, channel};
    top = end;
  }
  layout.kernel_scratch = top;
  size_t scratch = 0;
  for (int i = segment.first; i < segment.last; ++i) {
    const Extent &in = most.in[index(i - segment.first)], &made = most.made[index(i - segment.first)];
    const Launch& launch = program.launches[index(i)];
    scratch = std::max(scratch, launch.kernel->scratch_bytes(launch.spec, {0, 0, in.height, in.width},
                                                             {0, 0, made.height, made.width}));
  }
  layout.bytes = top + aligned(scratch) + kGuard;
}

Layout make_layout(const Program& program, int64_t h, int64_t w, int64_t tile_h, int64_t tile_w, const Ends& ends) {
  Layout layout;
  layout.h = h;
  layout.w = w;
  layout.tile_h = std::min(tile_h, h);
  layout.tile_w = std::min(tile_w, w);
  layout.direct = ends.direct();
  double total = 0;
  for (const Segment& segment : program.segments) {
    const Extent e = program.graph.extent(segment.out, h, w);
    const int64_t scale = program.graph.values[index(segment.out)].scale;
    const TaskSize task = choose_task(program, segment, std::min(e.height, layout.tile_h * scale),
                                      std::min(e.width, layout.tile_w * scale));
    layout.segments.push_back(
        {task.height, task.width, task.band, {}, 0, 0, task.work_per_pixel * static_cast<double>(e.height * e.width)});
    total += layout.segments.back().share;
  }
  const Survey survey(program, layout);
  for (size_t k = 0; k < program.segments.size(); ++k) {
    const Segment& segment = program.segments[k];
    layout.segments[k].share /= total;
    const bool last = segment.out == program.graph.out();
    place_buffers(program, segment, survey.sizes[k], last && !layout.direct, layout.segments[k]);
    layout.sink_scratch = last ? sink_scratch(layout, ends) : 0;
    layout.scratch_bytes = std::max(layout.scratch_bytes, layout.segments[k].bytes + aligned(layout.sink_scratch));
  }
  // A plane's memory is free again after the last segment that reads it.
  Arena arena;
  layout.plane_offset.assign(program.graph.values.size(), 0);
  for (size_t k = 0; k < program.segments.size(); ++k) {
    const int v = program.segments[k].out;
    if (v == program.graph.out()) continue;
    size_t last = k;
    for (size_t other = k + 1; other < program.segments.size(); ++other)
      for (const Buffer& buffer : program.segments[other].buffers)
        if (buffer.value == v) last = other;
    const Extent& most = survey.plane[index(v)];
    layout.plane_offset[index(v)] =
        arena.place(buffer_bytes(plane_floats(program.stored[index(v)], most.height, most.width)), static_cast<int>(k),
                    static_cast<int>(last));
  }
  layout.planes_bytes = arena.top();
  return layout;
}

}  // namespace

bool beyond_caches(int64_t channels, int64_t h, int64_t w) { return 4 * channels * h * w > kBeyondCaches; }

// In a large one the rows of all channels lie together, so that a band is one piece of memory and few pages (btsrn 9 %
// faster); a small one is faster channel by channel (crnet_b 15 %).
View plane_view(float* data, int64_t channels, const Rect& rect) {
  const int64_t row = row_stride_of(width(rect));
  if (!beyond_caches(channels, height(rect), width(rect)))
    return {data, channel_stride_of(height(rect), row), row, channels, rect};
  return {data, row | 16, channels * (row | 16) + 16, channels, rect};
}

void plane_areas(const Program& program, const Rect& lr, int64_t h, int64_t w, std::vector<Rect>& areas, Needs& need) {
  areas.assign(program.graph.values.size(), kNothing);
  const int64_t s = program.graph.scale;
  areas[index(program.graph.out())] = {lr.y0 * s, lr.x0 * s, lr.y1 * s, lr.x1 * s};
  for (auto segment = program.segments.rbegin(); segment != program.segments.rend(); ++segment) {
    const int64_t g = segment->granule;
    Rect& area = areas[index(segment->out)];
    area = {floor_div(area.y0, g) * g, floor_div(area.x0, g) * g, ceil_div(area.y1, g) * g, ceil_div(area.x1, g) * g};
    needs_of(program, *segment, area, h, w, nullptr, need);
    for (size_t b = 0; b < segment->buffers.size(); ++b) {
      const Buffer& buffer = segment->buffers[b];
      if (buffer.origin != Buffer::kPlane) continue;
      const Rect seen = shown_by(need.buffer[b], buffer.border, program.graph.extent(buffer.value, h, w));
      areas[index(buffer.value)] = unite(areas[index(buffer.value)], seen);
    }
  }
}

size_t sink_scratch(const Layout& layout, const Ends& ends) {
  if (ends.direct() || layout.segments.empty()) return 0;
  return ends.sink->scratch_bytes(layout.segments.back().band, layout.segments.back().width);
}

size_t bytes(const Program& program, const Layout& layout, const Ends& ends) {
  size_t sum = layout.planes_bytes + static_cast<size_t>(program.threads) * aligned(layout.scratch_bytes) + ends.held;
  for (const Launch& launch : program.launches) sum += launch.packed_bytes;
  return sum;
}

Layout choose_layout(const Program& program, int64_t h, int64_t w, const Ends& ends) {
  const int64_t scale = program.graph.scale, limit = program.options.memory_limit;
  if (h < 1 || w < 1) fail(Status::kBadInput, "an image of ", w, "x", h, " pixels is empty");
  if (h > limits::kPixels / w / (scale * scale))
    fail(Status::kLimit, "an output of ", w * scale, "x", h * scale, " pixels is above the limit of 2^31");
  const auto fits = [&](const Layout& l) {
    return limit ? bytes(program, l, ends) <= static_cast<size_t>(limit) : l.planes_bytes <= kPlanesBytes;
  };
  int64_t tile = program.options.tile ? std::max(program.options.tile, kLeastAskedTile) : 0;
  if (!tile) {
    // The whole image; or strips of it, as long as their halos, made twice, are not much.
    Layout l = make_layout(program, h, w, h, w, ends);
    const int64_t least = std::max<int64_t>(64, kHalo * program.radius);
    for (int64_t parts = 2; !fits(l) && ceil_div(h, parts) >= least; ++parts)
      l = make_layout(program, h, w, ceil_div(h, parts), w, ends);
    if (fits(l) || !limit) return l;
    tile = std::max(l.tile_h, l.tile_w) * 3 / 4;
  }
  for (;; tile = tile * 3 / 4) {
    tile = std::max(tile, kLeastTile);
    const Layout l = make_layout(program, h, w, tile, tile, ends);
    if (fits(l) || !limit) return l;
    if (tile == kLeastTile || (tile >= h && tile >= w && h <= kLeastTile && w <= kLeastTile))
      fail(Status::kLimit, "memory_limit=", limit, " bytes is too low: the smallest tile needs ",
           bytes(program, l, ends), " bytes with ", program.threads, " threads",
           ends.held ? ", the image and its result included" : "", "; raise it or use fewer threads");
  }
}

}  // namespace fastsr
