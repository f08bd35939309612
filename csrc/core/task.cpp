// SPDX-License-Identifier: Apache-2.0
#include "core/task.h"

#include "core/guard.h"
#include "core/memory.h"
#include "core/status.h"
#include "core/tiles.h"

namespace fastsr {

namespace {

struct Task {
  const TaskContext& context;
  const Program& program;
  const Segment& segment;
  const SegmentLayout& layout;
  unsigned char* scratch;
  Worker& worker;
  bool to_sink;  // the segment makes the run's output, which is handed over band by band

  Task(const TaskContext& shared, size_t k, unsigned char* memory, Worker& own)
      : context(shared),
        program(shared.program),
        segment(shared.program.segments[k]),
        layout(shared.layout.segments[k]),
        scratch(memory),
        worker(own),
        to_sink(segment.out == program.graph.out() && !shared.layout.direct) {}

  Rect image(int value) const {
    const Extent e = program.graph.extent(value, context.layout.h, context.layout.w);
    return {0, 0, e.height, e.width};
  }
  Rows& rows(size_t b) const { return worker.rows[b]; }
  bool checks() const { return program.options.poison; }

  // Decides where each buffer lies.
  void begin(const Rect& tile) {
    needs_of(program, segment, tile, context.layout.h, context.layout.w, nullptr, worker.whole);
    worker.rows.assign(segment.buffers.size(), Rows{});
    worker.in_place.assign(segment.buffers.size(), 0);
    for (size_t b = 0; b < segment.buffers.size(); ++b) {
      const Buffer& buffer = segment.buffers[b];
      // A plane is read where it lies unless its border is.
      worker.in_place[b] = buffer.origin == Buffer::kPlane
                               ? !buffer.bordered || contains(image(buffer.value), worker.whole.buffer[b])
                               : buffer.value == segment.out && !to_sink;
      const Placement& at = layout.buffers[b];
      rows(b).view = worker.in_place[b] ? context.views[index(buffer.value)]
                                        : View{reinterpret_cast<float*>(scratch + at.offset),
                                               at.channel_stride,
                                               at.row_stride,
                                               program.stored[index(buffer.value)],
                                               {}};
    }
  }

  void make_band(const Rect& band, const Needs& need) {
    for (size_t b = 0; b < segment.buffers.size(); ++b) {
      const Buffer::Origin origin = segment.buffers[b].origin;
      if (!worker.in_place[b] && (origin == Buffer::kInput || origin == Buffer::kPlane)) fetch(b, need.buffer[b]);
    }
    for (int i = segment.first; i < segment.last; ++i) {
      const size_t b = index(segment.made(i));
      const Buffer& buffer = segment.buffers[b];
      const Rect full = image(buffer.value);
      const Rect fresh = worker.in_place[b] ? band : intersect(rows(b).slide(need.buffer[b]), full);
      if (height(fresh) > 0) run_node(i, b, fresh);
      if (buffer.bordered) fill_border(rows(b).view, full.y1, full.x1, buffer.border);
      for (size_t c = b + 1; c < segment.buffers.size(); ++c)
        if (segment.buffers[c].copy_of == static_cast<int>(b)) fetch(c, need.buffer[c]);
    }
    if (to_sink) {
      Rows& made = rows(index(segment.made(segment.last - 1)));
      context.sink.write(made.part(band), scratch + layout.bytes);
      made.begun = false;  // the next band begins anew
    }
  }

  // Fills what is new of a buffer that no step of the segment makes.
  void fetch(size_t b, const Rect& need) {
    const Buffer& buffer = segment.buffers[b];
    const Rect full = image(buffer.value), fresh = rows(b).slide(need);
    if (height(fresh) <= 0) return;
    if (buffer.origin == Buffer::kInput) {
      const Rect inside = intersect(fresh, full);
      if (height(inside) > 0) context.inputs[index(buffer.value)]->read(rows(b).part(inside));
      if (buffer.bordered) fill_border(rows(b).view, full.y1, full.x1, buffer.border);
    } else {
      const View& from =
          buffer.origin == Buffer::kCopy ? rows(index(buffer.copy_of)).view : context.views[index(buffer.value)];
      copy_with_border(from, rows(b).part(fresh), full.y1, full.x1, buffer.border);
    }
  }

  // Makes the rectangle `fresh` of what node i makes, in buffer b.
  void run_node(int i, size_t b, const Rect& fresh) {
    const Node& node = program.graph.nodes[index(i)];
    const Launch& launch = program.launches[index(i)];
    View in[kMaxInputs];
    for (size_t n = 0; n < node.uses.size(); ++n) {
      const size_t from = index(segment.reads[index(i - segment.first)][n]);
      Rect read = node.rule->needs(launch.spec, static_cast<int>(n), fresh);
      if (clipped(program, i, static_cast<int>(n), segment.buffers[from]))
        read = intersect(read, image(node.uses[n].value));
      if (checks() && !contains(rows(from).view.rect, read))
        fail(Status::kBadInput, "internal error: a step reads what is not there");
      in[n] = rows(from).part(read);
    }
    const View made = rows(b).part(fresh);
    const Rect full = image(node.out);
    const bool large = worker.in_place[b] && beyond_caches(program.stored[index(node.out)], full.y1, full.x1);
    unsigned char* work = scratch + layout.kernel_scratch;
    if (checks()) {  // what the kernel asked for and no byte more, before the guard
      unsigned char* end = scratch + layout.bytes - kGuard;
      work = end - aligned(launch.kernel->scratch_bytes(launch.spec, in[0].rect, made.rect));
      if (work < scratch + layout.kernel_scratch) fail(Status::kBadInput, "internal error: too little scratch");
      poison(work, static_cast<size_t>(end - work));
    }
    launch.kernel->run({&launch.spec, launch.packed.get(), in, made, work, large});
    if (checks() &&
        !(untouched(scratch + layout.bytes) && (worker.in_place[b] || untouched(scratch + layout.buffers[b].end))))
      fail(Status::kBadInput, "internal error: ", launch.kernel->op, " writes past its memory");
  }
};

}  // namespace

void Worker::reserve(size_t buffers, size_t nodes) {
  for (Needs* n : {&whole, &end, &need}) {
    n->buffer.reserve(buffers);
    n->made.reserve(nodes);
  }
  rows.reserve(buffers);
  in_place.reserve(buffers);
}

void run_task(const TaskContext& context, size_t segment, const Rect& tile, unsigned char* scratch, Worker& worker) {
  if (context.program.options.poison) poison(scratch, context.layout.scratch_bytes);
  Task task(context, segment, scratch, worker);
  task.begin(tile);
  for_each_band(context.program, task.segment, tile, task.layout.band, context.layout.h, context.layout.w, worker.end,
                worker.need, [&](const Rect& band, const Needs& need) { task.make_band(band, need); });
}

}  // namespace fastsr
