// SPDX-License-Identifier: Apache-2.0
// Program: a graph compiled for one CPU. Plain data that never changes once it is made.
//
// The plan is cut into segments at values of few channels, or of much work: cheaper to keep as a whole plane than to make
// again. A segment runs depth first, task by task (a tile of its output) and within a task band by band: of its values
// only the rows that the next rows of output read live in buffers of one worker's scratch, which fits in L2, and they
// never reach memory.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"

namespace fastsr {

struct Options {
  int threads = 0;           // 0: default_threads()
  int64_t tile = 0;          // side of a tile in LR pixels, 0: the whole image at once unless memory_limit says less
  int64_t memory_limit = 0;  // bytes that a run may hold, 0: no limit
  std::string isa;           // "": choose_isa
  bool bf16 = false;         // products of bfloat16, summed in fp32, where that is faster; needs avx512bf16 or amx
  bool poison = false;       // tests: buffers and planes are NaN before every use
  unsigned shuffle = 0;      // tests: tasks run in an order drawn from this seed, 0: in order
  // Tests: "direct", "columns", "tiles" or "tiles6" for every convolution that can; "": the fastest.
  std::string algorithm;
};

// A step's kernel with its packed weights.
struct Launch {
  const Kernel* kernel;
  Spec spec;  // the node's, with what was decided
  std::shared_ptr<unsigned char> packed;
  size_t packed_bytes;  // 0 where another launch owns what is shared
};

// Rows of one value as the steps of a segment read it, in a worker's scratch: with one border around them, or none.
struct Buffer {
  enum Origin { kMade, kInput, kPlane, kCopy };
  int value;
  Origin
      origin;  // a step of the segment; an input of the run; a plane, read where it lies if its border is not needed; a buffer
  bool bordered;  // shows a border outside of the image
  Border border;
  int copy_of;  // kCopy: the buffer of a value that a step of the segment makes, whose readers see different borders
};

struct Segment {
  int first, last;  // nodes [first, last)
  int out;          // the value it makes
  int64_t granule;
  std::vector<Buffer> buffers;
  std::vector<std::vector<int>> reads;  // per node of the segment, per use: the buffer
  std::vector<int> makes;               // per node of the segment: the buffer
  int made(int node) const { return makes[static_cast<size_t>(node - first)]; }
};

struct Program {
  Graph graph;
  Options options;
  std::string isa;
  int threads;
  int64_t radius;
  std::vector<Launch> launches;  // per node
  std::vector<int64_t> stored;   // per value: rows of floats a pixel has, half the channels where it is kept as pairs
  std::vector<Segment> segments;

  Extent stored_extent(int value, int64_t h, int64_t w) const {
    Extent e = graph.extent(value, h, w);
    e.channels = stored[static_cast<size_t>(value)];
    return e;
  }
};

// Chooses kernels and packs weights, then decides which values are planes. Copies what it needs of the weights that the
// graph refers to. Throws Error.
Program compile(Graph graph, const Options& options);

// The same program with other weights of the same shapes. Throws Error(kBadModel).
Program with_weights(const Program& program, const Weights& weights);

static inline size_t index(int i) { return static_cast<size_t>(i); }

// The rectangles that one rectangle of a segment's output asks for: per buffer what must be there (outside of the image:
// the border), per node what its kernel must have made.
struct Needs {
  std::vector<Rect> buffer, made;
};
constexpr Rect kNothing{INT64_MAX, INT64_MAX, INT64_MIN, INT64_MIN};

// `keep`: rows that must be there too, as later bands need them; null: none. `need` is overwritten: its memory is used
// again, so that a run asks without allocating.
void needs_of(const Program& program, const Segment& segment, const Rect& out, int64_t h, int64_t w, const Needs* keep,
              Needs& need);
Needs needs_of(const Program& program, const Segment& segment, const Rect& out, int64_t h, int64_t w);

// The pixels inside an image of this size that a rectangle shows, those that its border repeats included.
Rect shown_by(Rect rect, Border border, const Extent& image);

// Whether a use reads nothing outside of the image: a kernel may read at its own place only, or count what is not there as
// zero.
bool clipped(const Program& program, int node, int use, const Buffer& buffer);

// Calls f(band of the output, need) for the bands of a task from top to bottom. No rectangle of a buffer begins above one
// of the band before, and none below the first row that a later band asks for: a row that has left is never missed. `end`
// and `need` are memory to work in.
template <typename F>
void for_each_band(const Program& program, const Segment& segment, const Rect& task, int64_t rows, int64_t h, int64_t w,
                   Needs& end, Needs& need, F f) {
  const int64_t last = floor_div(task.y1 - 1, rows) * rows;
  needs_of(program, segment, {std::max(last, task.y0), task.x0, task.y1, task.x1}, h, w, nullptr, end);
  for (int64_t y = task.y0, next; y < task.y1; y = next) {
    next = std::min(task.y1, (floor_div(y, rows) + 1) * rows);
    const Rect band{y, task.x0, next, task.x1};
    needs_of(program, segment, band, h, w, &end, need);
    f(band, need);
  }
}

}  // namespace fastsr
