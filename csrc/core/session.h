// SPDX-License-Identifier: Apache-2.0
// Session: a plan, or one op alone, prepared for this CPU (weights packed, kernels chosen); run() turns planes into planes.
//
// The plan is cut into segments at values of few channels, or of much work: cheaper to keep than to recompute.
// A segment runs depth first, tile by tile and within a tile band by band: of its wide values only the rows that the
// next rows of output read live in one worker's scratch, which fits in L2, and they never reach memory. The values
// between segments are whole planes in the arena.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/plan.h"
#include "core/tiles.h"

namespace fastsr {

struct Options {
  int threads = 0;           // 0: default_threads()
  int64_t tile = 0;          // side of a tile in LR pixels, 0: the whole image at once unless memory_limit says less
  int64_t memory_limit = 0;  // bytes the session may hold while running, 0: no limit
  std::string isa;           // "": choose_isa
  bool bf16 = false;         // products of bfloat16, summed in fp32, where that is faster; needs avx512bf16 or amx
  bool poison = false;       // tests: scratch and planes are NaN before every use
  unsigned shuffle = 0;      // tests: tasks run in an order drawn from this seed, 0: in order
  std::string way;           // tests: "direct", "columns" or "tiles" for every convolution that can, "": the fastest
};

// What one step of the plan will do for an h x w input.
struct StepReport {
  std::string op, out, who;
  Extent shape;
  int64_t radius, flops, bytes;
  int64_t task_height, task_width, band;  // of the segment's output, in pixels
};

class Session {
 public:
  // Of what check_plan or check_step gives; copies what it needs of the weights it refers to. Throws Error.
  Session(Graph graph, const Options& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Inputs and output of the shapes below, all dense; h x w is the first input's size. Thread-safe. Throws Error(kLimit).
  void run(const std::vector<const float*>& inputs, int64_t h, int64_t w, float* out);

  int inputs() const { return graph_.inputs; }
  Extent in_shape(int input, int64_t h, int64_t w) const { return graph_.extent(input, h, w); }
  Extent out_shape(int64_t h, int64_t w) const { return graph_.extent(graph_.out(), h, w); }
  int64_t channels() const { return graph_.values[0].channels; }  // of the first input
  int64_t scale() const { return graph_.scale; }
  int64_t radius() const { return radius_; }
  int64_t flops(int64_t h, int64_t w) const { return fastsr::flops(graph_, h, w); }
  int64_t memory(int64_t h, int64_t w) const;  // bytes held while running, weights included
  Extent tile(int64_t h, int64_t w) const;     // height and width in LR pixels that a run of this size uses
  int threads() const { return threads_; }
  const std::string& isa() const { return isa_; }
  std::vector<StepReport> explain(int64_t h, int64_t w) const;

 private:
  struct Packed;   // a step's kernel and its packed weights
  struct Segment;  // steps run together, tile by tile
  struct Task;     // the size of a segment's tiles
  struct Room;     // a place in a worker's scratch
  struct Layout;   // sizes for one (h, w, tile): planes, task tiles, scratch
  struct Context;  // the memory of one run
  struct Frame;    // what one run passes down

  void pair();
  void cut();
  bool worth_a_plane(int first, int step) const;
  void block();
  bool streamed(const Segment& segment, int value) const;
  Extent slack(int first, int last) const;
  Layout layout(int64_t h, int64_t w, int64_t tile_h, int64_t tile_w) const;
  Layout choose(int64_t h, int64_t w) const;
  size_t bytes(const Layout& layout) const;
  void plan_tasks(const Segment& segment, Layout& layout) const;
  double work_of_band(const Segment& segment, int64_t rows, int64_t columns, bool first) const;
  int64_t cached_bytes(const Segment& segment, int64_t rows, int64_t columns) const;
  size_t plan_scratch(const Segment& segment, int64_t rows, int64_t columns, std::vector<Room>& rooms) const;
  std::unique_ptr<Context> acquire(int64_t h, int64_t w);
  void release(std::unique_ptr<Context> context);
  void run_tile(const Frame& frame, const Rect& lr);
  void run_task(const Frame& frame, const Segment& segment, const Rect& out, unsigned char* scratch);

  Graph graph_;
  int64_t radius_;
  std::string isa_;
  int threads_;
  Options options_;
  std::vector<Packed> packed_;
  std::vector<Segment> segments_;
  // Contexts at rest. Atomic exchange instead of a mutex: a forked child can never find it locked.
  static constexpr int kRest = 8;
  std::atomic<Context*> rest_[kRest] = {};
};

}  // namespace fastsr
