// SPDX-License-Identifier: Apache-2.0
#include "core/pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <vector>

#include "core/platform.h"

namespace fastsr {
namespace {

// One worker's rest, [begin, end) in one word so that taking and stealing are each one compare-and-swap.
struct alignas(64) Share {
  std::atomic<uint64_t> range;
};

uint64_t pack(uint64_t begin, uint64_t end) { return begin << 32 | end; }

// The tasks of one parallel_for. It lies on the caller's stack.
struct Work {
  FunctionRef<void(int64_t, int)> task;
  size_t threads;
  Share shares[kMostThreads];  // of `threads` workers
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // written by whoever sets `failed` first

  Work(FunctionRef<void(int64_t, int)> t, int64_t count, int workers) : task(t), threads(static_cast<size_t>(workers)) {
    for (int64_t i = 0; i < workers; ++i)
      shares[i].range.store(
          pack(static_cast<uint64_t>(count * i / workers), static_cast<uint64_t>(count * (i + 1) / workers)),
          std::memory_order_relaxed);
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
    for (size_t k = 1; k < threads; ++k) {
      std::atomic<uint64_t>& range = shares[(thief + k) % threads].range;
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

  void run(int worker) {
    const size_t me = static_cast<size_t>(worker);
    int64_t index;
    while (!failed.load(std::memory_order_relaxed)) {
      if (!take(me, &index)) {
        if (!steal(me)) return;
        continue;
      }
      try {
        task(index, worker);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
};

std::atomic<int> g_forks{0};  // between this process and the first that loaded the library

void count_forks() {
  static const bool once = [] {
    platform::in_forked_child([] { ++g_forks; });
    return true;
  }();
  (void)once;
}

}  // namespace

// What threads and callers share. In a forked child the parent's threads do not exist and its mutex may have been held at
// the fork: there a State of the parent is left alone, and its memory with it.
struct Pool::State {
  struct Job {
    FunctionRef<void(int)> work;
    int seats;
    int joined = 1;   // workers that have taken a seat
    int working = 0;  // of those, the ones still inside
    std::condition_variable left{};
  };

  const int forks = g_forks;
  std::mutex mutex;  // of all below, and of the jobs
  std::condition_variable wake;
  std::vector<Job*> jobs;
  std::vector<std::unique_ptr<platform::Thread>> threads;
  bool ending = false;

  void loop() {
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      Job* job = nullptr;
      wake.wait(lock, [&] {
        for (Job* j : jobs)
          if (j->joined < j->seats) {
            job = j;
            return true;
          }
        return ending;
      });
      if (!job) return;
      const int worker = job->joined++;
      ++job->working;
      lock.unlock();
      job->work(worker);
      lock.lock();
      if (--job->working == 0) job->left.notify_all();
    }
  }
};

Pool::Pool() {
  count_forks();
  state_ = std::make_unique<State>();
}

Pool::~Pool() {
  if (state_->forks != g_forks) {
    (void)state_.release();
    return;
  }
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->ending = true;
  }
  state_->wake.notify_all();
  state_->threads.clear();  // joins them
}

void Pool::run(int count, FunctionRef<void(int)> work) {
  if (state_->forks != g_forks) {
    (void)state_.release();
    state_ = std::make_unique<State>();
  }
  State& state = *state_;
  State::Job job{work, count};
  {
    std::lock_guard<std::mutex> lock(state.mutex);
    // The system may have no thread left to give (a container's limit on tasks or memory): those there are, at worst the
    // caller alone, do the whole job.
    while (static_cast<int>(state.threads.size()) < count - 1) {
      auto thread = platform::Thread::start([](void* self) { static_cast<State*>(self)->loop(); }, &state);
      if (!thread) break;
      state.threads.push_back(std::move(thread));
    }
    state.jobs.push_back(&job);
  }
  state.wake.notify_all();
  work(0);
  std::unique_lock<std::mutex> lock(state.mutex);
  state.jobs.erase(std::remove(state.jobs.begin(), state.jobs.end(), &job), state.jobs.end());
  job.left.wait(lock, [&] { return job.working == 0; });
}

// A forked child gets another one before it can run anything: many of its threads may then ask at once.
Executor& process_pool() {
  static std::atomic<Pool*> pool{nullptr};
  static const bool once = [] {
    pool = new Pool;
    platform::in_forked_child([] { pool = new Pool; });
    return true;
  }();
  (void)once;
  return *pool.load();
}

int default_threads() { return platform::usable_cpus(); }

void parallel_for(int64_t count, int threads, FunctionRef<void(int64_t, int)> task, Executor& executor) {
  threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>({threads, count, kMostThreads})));
  Work work(task, count, threads);
  if (threads > 1) executor.run(threads, [&work](int worker) { work.run(worker); });
  work.run(0);  // what an executor has left; all of it where there is one thread
  if (work.failed) std::rethrow_exception(work.error);
}

}  // namespace fastsr
