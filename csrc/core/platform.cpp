// SPDX-License-Identifier: Apache-2.0
// Linux, macOS and other Unix; Windows is platform_windows.cpp.
#include "core/platform.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <system_error>
#include <thread>

#include "core/status.h"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace fastsr {
namespace platform {

namespace {

[[noreturn]] void unreadable(int error) {
  fail(Status::kBadModel, "cannot be read: ", std::generic_category().message(error));
}

}  // namespace

int usable_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0)
    cpus = std::min(cpus, static_cast<int>(std::max(1.0, std::strtod(quota.c_str(), nullptr) / period)));
#endif
  return std::max(1, cpus);
}

int64_t l2_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  return std::max<int64_t>(0, sysconf(_SC_LEVEL2_CACHE_SIZE));
#elif defined(__APPLE__)
  int64_t bytes = 0;
  size_t size = sizeof bytes;
  return sysctlbyname("hw.l2cachesize", &bytes, &size, nullptr, 0) == 0 ? bytes : 0;
#else
  return 0;
#endif
}

void* allocate(size_t align, size_t bytes) {
  void* p = nullptr;
  return posix_memalign(&p, align, bytes) == 0 ? p : nullptr;
}

void free(void* p) { std::free(p); }

void prefer_huge_pages(void* p, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  madvise(p, bytes, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

namespace {

class PosixThread : public Thread {
 public:
  PosixThread(void (*run)(void*), void* argument) : run_(run), argument_(argument) {}
  ~PosixThread() override {
    if (started_) pthread_join(thread_, nullptr);
  }
  bool begin() {
    constexpr size_t kStack = size_t{1} << 20;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setstacksize(&attributes, kStack);
    started_ = pthread_create(&thread_, &attributes, enter, this) == 0;
    pthread_attr_destroy(&attributes);
    return started_;
  }

 private:
  static void* enter(void* self) {
    const PosixThread& thread = *static_cast<PosixThread*>(self);
    thread.run_(thread.argument_);
    return nullptr;
  }
  void (*run_)(void*);
  void* argument_;
  pthread_t thread_{};
  bool started_ = false;
};

}  // namespace

std::unique_ptr<Thread> Thread::start(void (*run)(void*), void* argument) {
  auto thread = std::make_unique<PosixThread>(run, argument);
  return thread->begin() ? std::move(thread) : nullptr;
}

void in_forked_child(void (*f)()) { pthread_atfork(nullptr, nullptr, f); }

bool allow_amx_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

File::File(const std::string& path) {
  if (path.find('\0') != std::string::npos) fail(Status::kBadModel, "cannot be read: the name holds a NUL character");
  // Without O_NONBLOCK, opening a pipe would wait for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) unreadable(errno);
  struct stat info;
  const int error = ::fstat(fd, &info) == 0 ? 0 : errno;
  if (error || !S_ISREG(info.st_mode)) {
    ::close(fd);
    if (error) unreadable(error);
    fail(Status::kBadModel, "not a regular file");
  }
  handle_ = fd;
  size_ = info.st_size;
}

File::~File() { ::close(static_cast<int>(handle_)); }

void File::read(int64_t offset, void* to, size_t count) const {
  auto* at = static_cast<unsigned char*>(to);
  while (count > 0) {
    const ssize_t got = ::pread(static_cast<int>(handle_), at, count, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) unreadable(errno);
    if (got == 0) fail(Status::kBadModel, "was cut while it was read");
    at += got;
    offset += got;
    count -= static_cast<size_t>(got);
  }
}

bool is_file(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&own_folder), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace platform
}  // namespace fastsr
