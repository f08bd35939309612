// SPDX-License-Identifier: Apache-2.0
// Which pixels of every buffer a rectangle of output asks for: the only place that knows.
#include "core/program.h"
#include "core/tiles.h"

namespace fastsr {

namespace {

// One axis of `n` pixels: the pixels in [0, n) that the range [a, b) shows, border included.
void shown(int64_t& a, int64_t& b, int64_t n, Border border) {
  const int64_t before = -a, after = b - n;
  int64_t from = std::max<int64_t>(a, 0), to = std::min(b, n);
  if (border == Border::kReplicate) {
    if (before > 0) from = 0, to = std::max<int64_t>(to, 1);
    if (after > 0) from = std::min(from, n - 1), to = n;
  } else if (border == Border::kSymmetric) {
    if (before > 0) from = 0, to = std::max(to, std::min(n, before));
    if (after > 0) from = std::max<int64_t>(0, std::min(from, n - after)), to = n;
  }
  a = from;
  b = to;
}

bool empty(const Rect& r) { return r.y0 >= r.y1 || r.x0 >= r.x1; }

int64_t up(int64_t v, int64_t to, int64_t phase = 0) { return ceil_div(v - phase, to) * to + phase; }
int64_t down(int64_t v, int64_t to) { return floor_div(v, to) * to; }

}  // namespace

Rect shown_by(Rect r, Border border, const Extent& e) {
  if (empty(r)) return r;
  shown(r.y0, r.y1, e.height, border);
  shown(r.x0, r.x1, e.width, border);
  return r;
}

Needs needs_of(const Program& program, const Segment& segment, const Rect& out, int64_t h, int64_t w) {
  Needs need;
  needs_of(program, segment, out, h, w, nullptr, need);
  return need;
}

void needs_of(const Program& program, const Segment& segment, const Rect& out, int64_t h, int64_t w, const Needs* keep,
              Needs& need) {
  const Graph& graph = program.graph;
  need.buffer.assign(segment.buffers.size(), kNothing);
  need.made.assign(index(segment.last - segment.first), kNothing);
  const auto image = [&](int value) {
    const Extent e = graph.extent(value, h, w);
    return Rect{0, 0, e.height, e.width};
  };
  const auto complete = [&](size_t b) {  // with what its border shows, and what later bands need
    const Buffer& buffer = segment.buffers[b];
    Rect& r = need.buffer[b];
    if (keep && !empty(r)) r.y0 = std::min(r.y0, keep->buffer[b].y0);
    if (buffer.bordered && !empty(r)) r = unite(r, shown_by(r, buffer.border, graph.extent(buffer.value, h, w)));
  };
  for (int i = segment.last - 1; i >= segment.first; --i) {
    const Node& node = graph.nodes[index(i)];
    const Spec& spec = program.launches[index(i)].spec;
    const size_t b = index(segment.made(i));
    Rect& made = need.made[index(i - segment.first)];
    if (i == segment.last - 1) {
      made = need.buffer[b] = out;
    } else {
      for (size_t c = b + 1; c < segment.buffers.size(); ++c)
        if (segment.buffers[c].origin == Buffer::kCopy && segment.buffers[c].copy_of == static_cast<int>(b)) {
          if (keep && !empty(need.buffer[c])) need.buffer[c].y0 = std::min(need.buffer[c].y0, keep->buffer[c].y0);
          if (!empty(need.buffer[c]))
            need.buffer[b] = unite(need.buffer[b],
                                   shown_by(need.buffer[c], segment.buffers[c].border, graph.extent(node.out, h, w)));
        }
      complete(b);
      // On whole granules, so that a cell is never split between two tiles, and down to the end of a block, so that no
      // block is split between two bands.
      const Rect full = image(node.out);
      const int64_t g = node.rule->granule(spec);
      made = intersect(need.buffer[b], full);
      made = {down(made.y0, g), down(made.x0, g), up(up(made.y1, g), spec.blocks.rows, spec.blocks.y), up(made.x1, g)};
      made = intersect(made, full);
      need.buffer[b] = unite(need.buffer[b], made);
    }
    for (size_t k = 0; k < node.uses.size(); ++k) {
      const size_t from = index(segment.reads[index(i - segment.first)][k]);
      Rect r = node.rule->needs(spec, static_cast<int>(k), made);
      if (clipped(program, i, static_cast<int>(k), segment.buffers[from])) r = intersect(r, image(node.uses[k].value));
      need.buffer[from] = unite(need.buffer[from], r);
    }
  }
  for (size_t b = 0; b < segment.buffers.size(); ++b) {
    if (segment.buffers[b].origin == Buffer::kInput) complete(b);
    if (keep && segment.buffers[b].origin == Buffer::kPlane)  // its border is copied from the plane, which has all rows
      need.buffer[b].y0 = std::min(need.buffer[b].y0, keep->buffer[b].y0);
  }
}

bool clipped(const Program& program, int node, int use, const Buffer& buffer) {
  const Use& how = program.graph.nodes[index(node)].uses[index(use)];
  if (how.read == Read::kPixel || !buffer.bordered) return true;
  return buffer.border != how.border;  // a kernel that streams, beside others that see another border
}

}  // namespace fastsr
