// SPDX-License-Identifier: Apache-2.0
#include "core/tasks.h"

#include <limits>
#include <numeric>

#include "core/platform.h"

namespace fastsr {

namespace {

constexpr double kTaskWork = 2e5;  // multiply-adds that beginning a task is worth: about 10 us, measured
constexpr double kRowWork = 100;   // and a row of a channel: its first cache lines come late
constexpr int64_t kFarImage = int64_t{1} << 40;

int64_t l2_bytes() {
  static const int64_t bytes = std::max<int64_t>(platform::l2_bytes(), 256 << 10);
  return bytes;
}

// What a tile of this size needs where no edge is near. It may begin anywhere: here at a multiple of everything.
Needs inner_needs(const Program& program, const Segment& segment, int64_t rows, int64_t columns) {
  const int64_t far = 720720 * segment.granule;
  return needs_of(program, segment, {far, far, far + rows, far + columns}, kFarImage, kFarImage);
}

// Bytes that a band should find in L2: rows of the values between its steps, and of planes that two steps read.
int64_t cached_bytes(const Program& program, const Segment& segment, const Needs& need) {
  int64_t sum = 0;
  for (size_t b = 0; b < segment.buffers.size(); ++b) {
    const Buffer& buffer = segment.buffers[b];
    if (buffer.value == segment.out) continue;
    int64_t readers = 0;
    for (const std::vector<int>& reads : segment.reads)
      readers += std::count(reads.begin(), reads.end(), static_cast<int>(b));
    if (buffer.origin == Buffer::kPlane && !buffer.bordered && readers < 2) continue;
    sum += 4 * program.stored[index(buffer.value)] * height(need.buffer[b]) * width(need.buffer[b]);
  }
  return sum;
}

// Multiply-adds, or what takes as long, of a band; of a task's first one with the rows that later bands find made.
double work_of_band(const Program& program, const Segment& segment, const Needs& need, int64_t rows, bool first) {
  const int64_t scale = program.graph.values[index(segment.out)].scale;
  double work = 0;
  for (int i = segment.first; i < segment.last; ++i) {
    const Launch& launch = program.launches[index(i)];
    Rect made = need.made[index(i - segment.first)];
    const int64_t here = program.graph.values[index(program.graph.nodes[index(i)].out)].scale;
    if (!first) made.y1 = made.y0 + std::max<int64_t>(1, rows * here / scale);
    work += static_cast<double>(launch.kernel->work(launch.spec, made)) +
            kRowWork * static_cast<double>(height(made) * (launch.spec.channels_in + launch.spec.channels_out));
  }
  return work;
}

// By how much longer a band takes because what it should find in an L2 of this size does not fit.
double misses(const Program& program, const Segment& segment, const Needs& need, int64_t l2) {
  const double budget = static_cast<double>(l2) * 5 / 8;
  const double share = static_cast<double>(cached_bytes(program, segment, need)) / budget;
  return share > 1 ? 1 + 2 * (share - 1) : 1;
}

std::vector<int64_t> sorted(std::vector<int64_t> sides) {
  std::sort(sides.begin(), sides.end());
  sides.erase(std::unique(sides.begin(), sides.end()), sides.end());
  return sides;
}

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What bands of a task take with an L2 of this size, in multiply-adds.
struct BandWork {
  double first, next, slower;

  BandWork(const Program& program, const Segment& segment, int64_t rows, int64_t columns, int64_t l2) {
    const Needs need = inner_needs(program, segment, rows, columns);
    first = work_of_band(program, segment, need, rows, true);
    next = work_of_band(program, segment, need, rows, false);
    slower = misses(program, segment, need, l2);
  }
  double bands(int64_t n) const { return slower * (first + next * static_cast<double>(n - 1)); }
};

}  // namespace

TaskSize choose_task(const Program& program, const Segment& segment, int64_t area_h, int64_t area_w) {
  const int64_t g = segment.granule;
  int64_t block_rows = g, block_columns = g;
  for (int i = segment.first; i < segment.last; ++i) {
    block_rows = std::lcm(block_rows, program.launches[index(i)].spec.blocks.rows);
    block_columns = std::lcm(block_columns, program.launches[index(i)].spec.blocks.columns);
  }
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
  const double area = static_cast<double>(area_h) * static_cast<double>(area_w);
  double best = std::numeric_limits<double>::infinity();
  TaskSize task{bands[0], widths[0], bands[0], 0};
  for (int64_t width : sorted(widths))
    for (int64_t band : sorted(bands)) {
      const int64_t columns = area_w / width, left = area_w % width;
      const BandWork whole(program, segment, band, columns ? width : left, l2_bytes());
      // The last column of tasks is narrower, but its lanes may idle: 11 tiles of a row take as long as 16.
      const BandWork last = columns && left ? BandWork(program, segment, band, left, l2_bytes()) : whole;
      std::vector<int64_t> heights;
      for (int64_t parts : {1, 2, 3, 4, 6, 8, 12, 16, 24, 32}) heights.push_back(up(ceil_div(area_h, parts), band));
      for (int64_t height : sorted(heights)) {
        const int64_t count = ceil_div(area_h, height) * ceil_div(area_w, width);
        const auto time = [&](const BandWork& work) { return work.bands(height / band) + kTaskWork; };
        const double row = static_cast<double>(columns) * time(whole) + (left ? time(last) : 0);
        // What the last row of tasks wastes is not counted: it is less high.
        const double per_pixel = row / static_cast<double>(height * area_w);
        double cost = per_pixel;
        if (program.threads > 1) {
          // At worst all but one thread wait for the last task. Equal tasks that all threads share out leave none over,
          // but more of them even out what else the machine does.
          const bool even =
              (area_h % height == 0 || height > area_h) && (!columns || !left) && count % program.threads == 0;
          const double share =
              static_cast<double>(std::min(height, area_h) * std::min(width, area_w)) * program.threads / area;
          cost *= 1 + share * (even ? 0.2 : 0.8);
        }
        if (cost < best) {
          best = cost;
          task = {height, width, band, per_pixel};
        }
      }
    }
  return task;
}

double work_per_pixel(const Program& program, const Segment& segment) {
  constexpr int64_t kBands = 8;  // of a task, about
  // The same cut on every machine: where Winograd's blocks begin depends on it, and with that the last bits.
  constexpr int64_t kUsualL2 = int64_t{1} << 20;
  const int64_t g = segment.granule;
  double best = std::numeric_limits<double>::infinity();
  for (int64_t width : {32, 64, 128, 256})
    for (int64_t rows : {8, 16, 32, 64}) {
      const BandWork work(program, segment, up(rows, g), up(width, g), kUsualL2);
      const double pixels = static_cast<double>(kBands * up(rows, g) * up(width, g));
      best = std::min(best, work.bands(kBands) / pixels);
    }
  return best;
}

}  // namespace fastsr
