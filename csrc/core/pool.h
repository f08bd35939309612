// SPDX-License-Identifier: Apache-2.0
// The thread pool: one per process, grown on demand, work-stealing, replaced after fork.
#pragma once

#include <cstdint>
#include <functional>

namespace fastsr {

// Threads to use when the caller does not say: CPUs this process may run on, less a cgroup's quota.
int default_threads();

// Calls task(index, worker) once for every index in [0, count) on up to `threads` threads, the caller among them,
// and returns when all are done; worker is in [0, threads) and no two tasks share one at the same time. Each worker
// starts with an equal share and steals half of another's rest when its own is done, so that a slow core costs its
// own share and not everybody's wait. The first exception is rethrown here and the tasks not yet begun are dropped.
// Safe to call from many threads at once and in a forked child.
void parallel_for(int64_t count, int threads, const std::function<void(int64_t index, int worker)>& task);

}  // namespace fastsr
