// SPDX-License-Identifier: Apache-2.0
#include "core/session.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "core/guard.h"
#include "core/memory.h"
#include "core/rows.h"
#include "core/status.h"
#include "core/tiles.h"

namespace fastsr {

namespace {

constexpr std::chrono::milliseconds kWatchEvery{50};

}  // namespace

// Vectors that keep their memory from task to task and from run to run.
struct alignas(64) Session::Worker {
  Needs whole, end, need;
  std::vector<Rows> rows;      // per buffer
  std::vector<char> in_place;  // per buffer: lies where it is read or written

  // A worker may have its first task in any run: what it needs is there before.
  void reserve(size_t buffers, size_t nodes) {
    for (Needs* n : {&whole, &end, &need}) {
      n->buffer.reserve(buffers);
      n->made.reserve(nodes);
    }
    rows.reserve(buffers);
    in_place.reserve(buffers);
  }
};

struct Session::Memory {
  Layout layout;  // of its last run: a stream of equal frames plans once
  size_t held = 0;
  Block planes, scratch;
  size_t planes_bytes = 0, scratch_bytes = 0;
  std::vector<View> views;  // per value: a plane between segments, or the output
  std::vector<Rect> areas;  // per value, of the present tile
  std::vector<Worker> workers;
};

struct Session::Run {
  const Program& program;
  const std::vector<const Source*>& inputs;
  Sink& sink;
  const Watch& watch;
  Memory& memory;
  Executor& executor;
  double done = 0;  // of the work, before the present segment
  int64_t tiles = 1;
  std::chrono::steady_clock::time_point asked = std::chrono::steady_clock::now();
};

Session::Session(Graph graph, const Options& options)
    : program_(std::make_shared<const Program>(compile(std::move(graph), options))) {}

Session::~Session() {
  for (std::atomic<Memory*>& slot : kept_) delete slot.exchange(nullptr);
}

std::shared_ptr<const Program> Session::program() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return program_;
}

void Session::replace(const Weights& weights) {
  auto replaced = std::make_shared<const Program>(with_weights(*program(), weights));
  std::lock_guard<std::mutex> lock(mutex_);
  program_ = std::move(replaced);
}

std::unique_ptr<Session::Memory> Session::acquire(const Program& program, int64_t h, int64_t w, const Ends& ends) {
  std::unique_ptr<Memory> memory;
  for (std::atomic<Memory*>& slot : kept_) {
    memory.reset(slot.exchange(nullptr));
    if (memory) break;
  }
  if (!memory) memory = std::make_unique<Memory>();
  const Layout& layout = memory->layout;
  if (layout.h != h || layout.w != w || memory->held != ends.held || layout.direct != ends.direct() ||
      layout.sink_scratch != sink_scratch(layout, ends))
    memory->layout = choose_layout(program, h, w, ends);
  memory->held = ends.held;
  const size_t scratch = static_cast<size_t>(program.threads) * aligned(layout.scratch_bytes);
  if (memory->planes_bytes < layout.planes_bytes) {
    memory->planes.reset();
    memory->planes_bytes = 0;
    memory->planes = allocate(layout.planes_bytes);
    memory->planes_bytes = layout.planes_bytes;
  }
  if (memory->scratch_bytes < scratch) {
    memory->scratch.reset();
    memory->scratch_bytes = 0;
    memory->scratch = allocate(scratch);
    memory->scratch_bytes = scratch;
  }
  memory->views.assign(program.graph.values.size(), View{});
  memory->workers.resize(index(program.threads));
  size_t buffers = 0, nodes = 0;
  for (const Segment& segment : program.segments) {
    buffers = std::max(buffers, segment.buffers.size());
    nodes = std::max(nodes, index(segment.last - segment.first));
  }
  for (Worker& worker : memory->workers) worker.reserve(buffers, nodes);
  return memory;
}

void Session::release(std::unique_ptr<Memory> memory) {
  for (std::atomic<Memory*>& slot : kept_) {
    Memory* expected = nullptr;
    if (slot.compare_exchange_strong(expected, memory.get())) {
      memory.release();
      return;
    }
  }
}

void Session::run(const std::vector<const Source*>& inputs, int64_t h, int64_t w, Sink& out, const Watch& watch,
                  Executor& executor) {
  const std::shared_ptr<const Program> program = this->program();
  Ends ends;
  if (!out.planes().data) ends.sink = &out;
  ends.held = out.bytes();
  for (const Source* input : inputs) ends.held += input->bytes();
  std::unique_ptr<Memory> memory = acquire(*program, h, w, ends);
  Run run{*program, inputs, out, watch, *memory, executor};
  memory->views.back() = out.planes();
  const Grid grid({0, 0, h, w}, memory->layout.tile_h, memory->layout.tile_w);
  run.tiles = grid.count();
  for (int64_t i = 0; i < grid.count(); ++i) run_tile(run, grid[i]);
  release(std::move(memory));
}

// One outer tile through all segments. `lr` is the part of the output to make, in LR pixels.
void Session::run_tile(Run& run, const Rect& lr) {
  const Program& program = run.program;
  const Layout& layout = run.memory.layout;
  const Options& options = program.options;
  std::vector<Rect>& areas = run.memory.areas;
  plane_areas(program, lr, layout.h, layout.w, areas, run.memory.workers[0].need);
  if (options.poison) poison(run.memory.planes.get(), run.memory.planes_bytes);
  for (size_t k = 0; k < program.segments.size(); ++k) {
    const Segment& segment = program.segments[k];
    const Rect& area = areas[index(segment.out)];
    if (segment.out != program.graph.out()) {
      unsigned char* data = run.memory.planes.get() + layout.plane_offset[index(segment.out)];
      run.memory.views[index(segment.out)] =
          plane_view(reinterpret_cast<float*>(data), program.stored[index(segment.out)], area);
    }
    const Grid grid(area, layout.segments[k].height, layout.segments[k].width);
    std::vector<int64_t> order;
    if (options.shuffle) {
      for (int64_t i = 0; i < grid.count(); ++i) order.push_back(i);
      std::shuffle(order.begin(), order.end(), std::mt19937(options.shuffle));
    }
    const double share = layout.segments[k].share / static_cast<double>(run.tiles);
    std::atomic<int64_t> finished{0};
    std::atomic<bool> stopped{false};
    const auto task = [&](int64_t i, int worker) {
      if (stopped.load(std::memory_order_relaxed)) return;
      if (worker == 0 && run.watch && std::chrono::steady_clock::now() - run.asked > kWatchEvery) {
        const double part = static_cast<double>(finished.load()) / static_cast<double>(grid.count());
        if (!run.watch(run.done + share * part)) stopped = true;
        run.asked = std::chrono::steady_clock::now();
      }
      run_task(run, k, grid[order.empty() ? i : order[static_cast<size_t>(i)]], worker);
      ++finished;
    };
    parallel_for(grid.count(), program.threads, task, run.executor);
    if (stopped) fail(Status::kStopped, "stopped by the caller");
    run.done += share;
  }
}

void Session::run_task(const Run& run, size_t k, const Rect& task, int worker) const {
  const Program& program = run.program;
  const Layout& l = run.memory.layout;
  unsigned char* const scratch = run.memory.scratch.get() + index(worker) * aligned(l.scratch_bytes);
  if (program.options.poison) poison(scratch, l.scratch_bytes);
  Worker& own = run.memory.workers[index(worker)];
  std::vector<Rows>& rows = own.rows;
  std::vector<char>& in_place = own.in_place;
  const Segment& segment = program.segments[k];
  const SegmentLayout& layout = l.segments[k];
  const bool to_sink = segment.out == program.graph.out() && !l.direct;
  const auto image = [&](int value) {
    const Extent e = program.graph.extent(value, l.h, l.w);
    return Rect{0, 0, e.height, e.width};
  };
  needs_of(program, segment, task, l.h, l.w, nullptr, own.whole);
  rows.assign(segment.buffers.size(), Rows{});
  in_place.assign(segment.buffers.size(), 0);
  for (size_t b = 0; b < rows.size(); ++b) {
    const Buffer& buffer = segment.buffers[b];
    // A plane is read where it lies unless its border is.
    in_place[b] = buffer.origin == Buffer::kPlane
                      ? !buffer.bordered || contains(image(buffer.value), own.whole.buffer[b])
                      : buffer.value == segment.out && !to_sink;
    const Placement& at = layout.buffers[b];
    rows[b].view = in_place[b] ? run.memory.views[index(buffer.value)]
                               : View{reinterpret_cast<float*>(scratch + at.offset),
                                      at.channel_stride,
                                      at.row_stride,
                                      program.stored[index(buffer.value)],
                                      {}};
  }
  // Fills what is new of a buffer that no step of the segment makes.
  const auto fetch = [&](size_t b, const Rect& need) {
    const Buffer& buffer = segment.buffers[b];
    const Rect full = image(buffer.value), fresh = rows[b].slide(need);
    if (height(fresh) <= 0) return;
    if (buffer.origin == Buffer::kInput) {
      const Rect inside = intersect(fresh, full);
      if (height(inside) > 0) run.inputs[index(buffer.value)]->read(rows[b].part(inside));
      if (buffer.bordered) fill_border(rows[b].view, full.y1, full.x1, buffer.border);
    } else {
      const View& from =
          buffer.origin == Buffer::kCopy ? rows[index(buffer.copy_of)].view : run.memory.views[index(buffer.value)];
      copy_with_border(from, rows[b].part(fresh), full.y1, full.x1, buffer.border);
    }
  };
  const auto make = [&](const Rect& band, const Needs& need) {
    for (size_t b = 0; b < rows.size(); ++b)
      if (!in_place[b] && (segment.buffers[b].origin == Buffer::kInput || segment.buffers[b].origin == Buffer::kPlane))
        fetch(b, need.buffer[b]);
    for (int i = segment.first; i < segment.last; ++i) {
      const Node& node = program.graph.nodes[index(i)];
      const Launch& launch = program.launches[index(i)];
      const size_t b = index(segment.made(i));
      const Buffer& buffer = segment.buffers[b];
      const Rect full = image(node.out);
      const Rect fresh = in_place[b] ? band : intersect(rows[b].slide(need.buffer[b]), full);
      if (height(fresh) > 0) {
        const View made = rows[b].part(fresh);
        View in[kMaxInputs];
        for (size_t n = 0; n < node.uses.size(); ++n) {
          const size_t from = index(segment.reads[index(i - segment.first)][n]);
          Rect read = node.rule->needs(launch.spec, static_cast<int>(n), fresh);
          if (clipped(program, i, static_cast<int>(n), segment.buffers[from]))
            read = intersect(read, image(node.uses[n].value));
          if (program.options.poison && !contains(rows[from].view.rect, read))
            fail(Status::kBadInput, "internal error: a step reads what is not there");
          in[n] = rows[from].part(read);
        }
        const bool large = in_place[b] && beyond_caches(program.stored[index(node.out)], full.y1, full.x1);
        unsigned char* work = scratch + layout.kernel_scratch;
        if (program.options.poison) {  // what the kernel asked for and no byte more, before the guard
          unsigned char* end = scratch + layout.bytes - kGuard;
          work = end - aligned(launch.kernel->scratch_bytes(launch.spec, in[0].rect, made.rect));
          if (work < scratch + layout.kernel_scratch) fail(Status::kBadInput, "internal error: too little scratch");
          poison(work, static_cast<size_t>(end - work));
        }
        launch.kernel->run({&launch.spec, launch.packed.get(), in, made, work, large});
        if (program.options.poison &&
            !(untouched(scratch + layout.bytes) && (in_place[b] || untouched(scratch + layout.buffers[b].end))))
          fail(Status::kBadInput, "internal error: ", launch.kernel->op, " writes past its memory");
      }
      if (buffer.bordered) fill_border(rows[b].view, full.y1, full.x1, buffer.border);
      for (size_t c = b + 1; c < rows.size(); ++c)
        if (segment.buffers[c].copy_of == static_cast<int>(b)) fetch(c, need.buffer[c]);
    }
    if (to_sink) {
      const size_t b = index(segment.made(segment.last - 1));
      run.sink.write(rows[b].part(band), scratch + layout.bytes);
      rows[b].begun = false;  // the next band begins anew
    }
  };
  for_each_band(program, segment, task, layout.band, l.h, l.w, own.end, own.need, make);
}

}  // namespace fastsr
