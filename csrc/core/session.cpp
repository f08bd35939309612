// SPDX-License-Identifier: Apache-2.0
#include "core/session.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "core/guard.h"
#include "core/memory.h"
#include "core/status.h"
#include "core/task.h"
#include "core/tiles.h"

namespace fastsr {

namespace {

constexpr std::chrono::milliseconds kWatchEvery{50};

}  // namespace

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
  const TaskContext context{program, layout, run.inputs, run.sink, run.memory.views};
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
      run_task(context, k, grid[order.empty() ? i : order[static_cast<size_t>(i)]],
               run.memory.scratch.get() + index(worker) * aligned(layout.scratch_bytes),
               run.memory.workers[index(worker)]);
      ++finished;
    };
    parallel_for(grid.count(), program.threads, task, run.executor);
    if (stopped) fail(Status::kStopped, "stopped by the caller");
    run.done += share;
  }
}

}  // namespace fastsr
