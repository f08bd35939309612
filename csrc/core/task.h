// SPDX-License-Identifier: Apache-2.0
// One task of a segment: a tile of its output, made band by band.
#pragma once

#include <vector>

#include "core/io.h"
#include "core/layout.h"
#include "core/program.h"
#include "core/rows.h"

namespace fastsr {

// What one worker of a run works in beside its scratch: vectors that keep their memory from task to task and from run to
// run.
struct alignas(64) Worker {
  Needs whole, end, need;
  std::vector<Rows> rows;      // per buffer
  std::vector<char> in_place;  // per buffer: lies where it is read or written

  // A worker may have its first task in any run: what it needs is there before.
  void reserve(size_t buffers, size_t nodes);
};

// What the tasks of a run share.
struct TaskContext {
  const Program& program;
  const Layout& layout;
  const std::vector<const Source*>& inputs;
  Sink& sink;
  const std::vector<View>& views;  // per value: a plane between segments, or the output
};

// `scratch` holds layout.scratch_bytes.
void run_task(const TaskContext& context, size_t segment, const Rect& task, unsigned char* scratch, Worker& worker);

}  // namespace fastsr
