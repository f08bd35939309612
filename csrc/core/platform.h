// SPDX-License-Identifier: Apache-2.0
// What differs between operating systems: the only file of the core that includes their headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace fastsr {
namespace platform {

// CPUs that this process may run on, less a container's quota. At least 1.
int usable_cpus();

// Of one core's L2 cache; 0: not known.
int64_t l2_bytes();

// Size and alignment of a large page.
constexpr size_t kHugePage = size_t{2} << 20;
// At a multiple of `align`, a power of two of which `bytes` is a multiple. Null: there is none.
void* allocate(size_t align, size_t bytes);
void free(void* p);
// Advice that this memory is better on large pages, which spare the TLB.
void prefer_huge_pages(void* p, size_t bytes);

// A thread with a stack of 1 MB: kernels keep a few kB there, and the system's 8 MB, of address space only, are what a limit
// on that (ulimit -v) counts. The destructor waits for its end.
class Thread {
 public:
  // Null: the system has none to give.
  static std::unique_ptr<Thread> start(void (*run)(void*), void* argument);
  virtual ~Thread() = default;
};

// Calls `f` in every child that this process forks, on its only thread. Where there is no fork, nothing.
void in_forked_child(void (*f)());

// Asks for the right to use AMX's tile registers, which are 8 kB of state. False where there is none to be had.
bool allow_amx_tiles();

// A regular file, open for reading. Names are UTF-8. Throws Error(kBadModel) that does not name the file.
class File {
 public:
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int64_t size() const { return size_; }
  void read(int64_t offset, void* to, size_t count) const;

 private:
  intptr_t handle_;
  int64_t size_;
};

bool is_file(const std::string& path);

// The folder of the library, or program, that this code is in; empty: not known.
std::string own_folder();

// An environment variable, UTF-8; empty: not set.
std::string environment(const char* name);

}  // namespace platform
}  // namespace fastsr
