// SPDX-License-Identifier: Apache-2.0
#include "core/pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fastsr {
namespace {

// Of a worker's stack. Kernels keep a few kB there, their buffers lie in the session's memory; the system's 8 MB, of
// address space only, are what a limit on it (ulimit -v) counts.
constexpr size_t kStack = size_t{1} << 20;

// One worker's rest, [begin, end) in one word so that taking and stealing are each one compare-and-swap.
struct alignas(64) Share {
  std::atomic<uint64_t> range{0};
};

uint64_t pack(uint64_t begin, uint64_t end) { return begin << 32 | end; }

struct Job {
  const std::function<void(int64_t, int)>* task;
  std::vector<Share> shares;
  int joined = 1;   // workers that have taken a seat; guarded by the pool's mutex
  int working = 0;  // of those, the ones still inside; guarded by the pool's mutex
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // written by whoever sets `failed` first
  std::condition_variable left;

  Job(const std::function<void(int64_t, int)>& t, int64_t count, int threads)
      : task(&t), shares(static_cast<size_t>(threads)) {
    for (int64_t i = 0; i < threads; ++i)
      shares[static_cast<size_t>(i)].range =
          pack(static_cast<uint64_t>(count * i / threads), static_cast<uint64_t>(count * (i + 1) / threads));
  }

  bool take(size_t worker, int64_t* index) {
    std::atomic<uint64_t>& range = shares[worker].range;
    uint64_t now = range.load();
    for (;;) {
      const uint64_t begin = now >> 32, end = now & 0xffffffffu;
      if (begin >= end) return false;
      if (range.compare_exchange_weak(now, pack(begin + 1, end))) {
        *index = static_cast<int64_t>(begin);
        return true;
      }
    }
  }

  bool steal(size_t thief) {
    for (size_t k = 1; k < shares.size(); ++k) {
      std::atomic<uint64_t>& range = shares[(thief + k) % shares.size()].range;
      uint64_t now = range.load();
      for (;;) {
        const uint64_t begin = now >> 32, end = now & 0xffffffffu;
        if (begin >= end) break;
        const uint64_t middle = begin + (end - begin) / 2;  // the victim keeps the smaller half
        if (range.compare_exchange_weak(now, pack(begin, middle))) {
          shares[thief].range = pack(middle, end);
          return true;
        }
      }
    }
    return false;
  }

  void work(int worker) {
    const size_t me = static_cast<size_t>(worker);
    int64_t index;
    while (!failed.load(std::memory_order_relaxed)) {
      if (!take(me, &index)) {
        if (!steal(me)) return;
        continue;
      }
      try {
        (*task)(index, worker);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
};

class Pool {
 public:
  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // The system may have no thread left to give (a container's limit on tasks or memory): those there are, at worst the
      // caller alone, do the whole job.
      while (threads_ < static_cast<int>(job.shares.size()) - 1 && start()) ++threads_;
      jobs_.push_back(&job);
    }
    wake_.notify_all();
    job.work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    job.left.wait(lock, [&] { return job.working == 0; });
  }

 private:
  bool start() {
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0) return false;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, kStack);
    pthread_t thread;
    const int failed = pthread_create(
        &thread, &attr,
        [](void* self) -> void* {
          static_cast<Pool*>(self)->loop();
          return nullptr;
        },
        this);
    pthread_attr_destroy(&attr);
    return failed == 0;
  }

  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      wake_.wait(lock, [&] {
        for (Job* j : jobs_)
          if (j->joined < static_cast<int>(j->shares.size())) {
            job = j;
            return true;
          }
        return false;
      });
      const int worker = job->joined++;
      ++job->working;
      lock.unlock();
      job->work(worker);
      lock.lock();
      if (--job->working == 0) job->left.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job*> jobs_;
  int threads_ = 0;
};

// Never destroyed: its threads are detached, and a forked child gets a fresh one, since the parent's threads do not
// exist there and its mutex may have been held at the fork.
std::atomic<Pool*> g_pool{nullptr};

Pool& pool() {
  static const bool once = [] {
    g_pool = new Pool;
    pthread_atfork(nullptr, nullptr, [] { g_pool = new Pool; });
    return true;
  }();
  (void)once;
  return *g_pool.load();
}

}  // namespace

int default_threads() {
  cpu_set_t set;
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0)
    cpus = std::min(cpus, static_cast<int>(std::max(1.0, std::stod(quota) / period)));
  return std::max(1, cpus);
}

void parallel_for(int64_t count, int threads, const std::function<void(int64_t, int)>& task) {
  threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, count)));
  Job job(task, count, threads);
  if (threads == 1) {
    job.work(0);
  } else {
    pool().run(job);
  }
  if (job.failed) std::rethrow_exception(job.error);
}

}  // namespace fastsr
