// SPDX-License-Identifier: Apache-2.0
#include <windows.h>

#include <malloc.h>

#include <algorithm>
#include <system_error>
#include <thread>

#include "core/platform.h"
#include "core/status.h"

namespace fastsr {
namespace platform {

namespace {

std::wstring wide(const std::string& text) {
  const int count = MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), nullptr, 0);
  std::wstring made(static_cast<size_t>(count), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, text.data(), static_cast<int>(text.size()), &made[0], count);
  return made;
}

std::string narrow(const wchar_t* text) {
  const int length = static_cast<int>(wcslen(text));
  const int count = WideCharToMultiByte(CP_UTF8, 0, text, length, nullptr, 0, nullptr, nullptr);
  std::string made(static_cast<size_t>(count), '\0');
  WideCharToMultiByte(CP_UTF8, 0, text, length, &made[0], count, nullptr, nullptr);
  return made;
}

[[noreturn]] void unreadable(DWORD error) {
  const char* text = error == ERROR_FILE_NOT_FOUND || error == ERROR_PATH_NOT_FOUND ? "No such file or directory"
                     : error == ERROR_ACCESS_DENIED                                 ? "Permission denied"
                                                                                    : "Windows says no";
  fail(Status::kBadModel, "cannot be read: ", text);
}

}  // namespace

int usable_cpus() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

int64_t l2_bytes() { return 0; }

void* allocate(size_t align, size_t bytes) { return _aligned_malloc(bytes, align); }
void free(void* p) { _aligned_free(p); }
void prefer_huge_pages(void*, size_t) {}
namespace {

class StandardThread : public Thread {
 public:
  StandardThread(void (*run)(void*), void* argument) : thread_(run, argument) {}
  ~StandardThread() override { thread_.join(); }

 private:
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Thread> Thread::start(void (*run)(void*), void* argument) {
  try {
    return std::make_unique<StandardThread>(run, argument);
  } catch (const std::system_error&) {
    return nullptr;
  }
}

void in_forked_child(void (*)()) {}
bool allow_amx_tiles() { return false; }

File::File(const std::string& path) {
  if (path.find('\0') != std::string::npos) fail(Status::kBadModel, "cannot be read: the name holds a NUL character");
  const HANDLE file = CreateFileW(wide(path).c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING,
                                  FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file == INVALID_HANDLE_VALUE) unreadable(GetLastError());
  LARGE_INTEGER size;
  if (GetFileType(file) != FILE_TYPE_DISK || !GetFileSizeEx(file, &size)) {
    CloseHandle(file);
    fail(Status::kBadModel, "not a regular file");
  }
  handle_ = reinterpret_cast<intptr_t>(file);
  size_ = size.QuadPart;
}

File::~File() { CloseHandle(reinterpret_cast<HANDLE>(handle_)); }

void File::read(int64_t offset, void* to, size_t count) const {
  auto* at = static_cast<unsigned char*>(to);
  while (count > 0) {
    OVERLAPPED where{};
    where.Offset = static_cast<DWORD>(offset);
    where.OffsetHigh = static_cast<DWORD>(offset >> 32);
    DWORD got = 0;
    const DWORD part = static_cast<DWORD>(std::min<size_t>(count, size_t{1} << 30));
    if (!ReadFile(reinterpret_cast<HANDLE>(handle_), at, part, &got, &where)) unreadable(GetLastError());
    if (got == 0) fail(Status::kBadModel, "was cut while it was read");
    at += got;
    offset += got;
    count -= got;
  }
}

bool is_file(const std::string& path) {
  const DWORD attributes = GetFileAttributesW(wide(path).c_str());
  return attributes != INVALID_FILE_ATTRIBUTES && !(attributes & FILE_ATTRIBUTE_DIRECTORY);
}

std::string own_folder() {
  HMODULE module = nullptr;
  wchar_t name[4096];
  if (!GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                          reinterpret_cast<LPCWSTR>(&own_folder), &module) ||
      !GetModuleFileNameW(module, name, 4096))
    return "";
  const std::string path = narrow(name);
  const size_t slash = path.find_last_of("/\\");
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::string environment(const char* name) {
  const wchar_t* value = _wgetenv(wide(name).c_str());
  return value ? narrow(value) : "";
}

}  // namespace platform
}  // namespace fastsr
