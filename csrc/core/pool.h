// SPDX-License-Identifier: Apache-2.0
// Who runs tasks: a pool of threads with work stealing, the process's or one of its own, or the host's executor.
#pragma once

#include <cstdint>
#include <memory>

#include "core/function_ref.h"

namespace fastsr {

// Threads to use when the caller does not say: CPUs this process may run on, less a cgroup's quota.
int default_threads();

constexpr int kMostThreads = 512;

// Lends threads to a call of parallel_for.
class Executor {
 public:
  virtual ~Executor() = default;
  // Calls work(k) at most once for each k in [0, count), as many at the same time as it can, and returns when all that
  // have begun are over. It need not call all: whoever works takes what is left. `work` throws nothing.
  virtual void run(int count, FunctionRef<void(int worker)> work) = 0;
};

// Threads that are started when they are first asked for, and joined by the destructor. The caller's thread is worker 0.
// Serves many callers at once. A forked child gets fresh threads.
class Pool : public Executor {
 public:
  Pool();
  ~Pool() override;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  void run(int count, FunctionRef<void(int worker)> work) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// One per process. It is never destroyed.
Executor& process_pool();

// Calls task(index, worker) once for every index in [0, count) on up to `threads` threads and returns when all are done;
// worker is in [0, threads) and no two tasks share one at the same time. Each worker starts with an equal share and
// steals half of another's rest when its own is done, so that a slow core costs its own share and not everybody's wait.
// The first exception is rethrown here and the tasks not yet begun are dropped. Allocates nothing once threads run. Safe to
// call from many threads at once and in a forked child.
void parallel_for(int64_t count, int threads, FunctionRef<void(int64_t index, int worker)> task,
                  Executor& executor = process_pool());

}  // namespace fastsr
