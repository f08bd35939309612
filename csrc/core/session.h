// SPDX-License-Identifier: Apache-2.0
// Session: runs a program. Thread-safe: one session serves many callers at once.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/io.h"
#include "core/layout.h"
#include "core/pool.h"
#include "core/program.h"

namespace fastsr {

// Asked between tasks on the caller's thread, with how much of the work is done (0 to 1), about twenty times a second.
// False stops the run, which then throws Error(kStopped).
using Watch = std::function<bool(double done)>;

class Session {
 public:
  // Of what check_plan or check_step gives; copies what it needs of the weights it refers to. Throws Error.
  Session(Graph graph, const Options& options);
  // Of a program that others may run too.
  explicit Session(std::shared_ptr<const Program> program) : program_(std::move(program)) {}
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // h x w is the first input's size; the others' follow from the graph. A run like the one before allocates nothing. Throws
  // Error(kLimit), Error(kStopped).
  void run(const std::vector<const Source*>& inputs, int64_t h, int64_t w, Sink& out, const Watch& watch = {},
           Executor& executor = process_pool());

  // Takes other weights of the same shapes; runs that have begun keep the old ones. Throws Error(kBadModel).
  void replace(const Weights& weights);

  std::shared_ptr<const Program> program() const;

 private:
  struct Memory;  // of one run: kept for the next
  struct Run;     // what one run passes down

  std::unique_ptr<Memory> acquire(const Program& program, int64_t h, int64_t w, const Ends& ends);
  void release(std::unique_ptr<Memory> memory);
  void run_tile(Run& run, const Rect& lr);

  std::shared_ptr<const Program> program_;
  mutable std::mutex mutex_;  // of program_
  static constexpr int kKept = 4;
  std::atomic<Memory*> kept_[kKept] = {};
};

}  // namespace fastsr
