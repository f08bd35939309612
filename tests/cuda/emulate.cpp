// SPDX-License-Identifier: Apache-2.0
// One kernel instance as a shared library for ctypes: FASTSR_SOURCE is the .cu, FASTSR_ENTRY its kernel. Built by
// tests/cuda/emulation.py.
#include FASTSR_SOURCE

namespace {

template <class... Args, size_t... kIndex>
void call(dim3 grid, dim3 threads, size_t shared, emu::Order order, void (*kernel)(Args...), void** args,
          std::index_sequence<kIndex...>) {
  emu::launch(grid, threads, shared, order, kernel, *static_cast<std::decay_t<Args>*>(args[kIndex])...);
}

template <class... Args>
void unpack(dim3 grid, dim3 threads, size_t shared, emu::Order order, void (*kernel)(Args...), void** args) {
  call(grid, threads, shared, order, kernel, args, std::index_sequence_for<Args...>());
}

}  // namespace

// `args` as cuLaunchKernel has it: the address of each argument. Returns null, or what went wrong, until the next call.
extern "C" const char* fastsr_emulate(unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned threads,
                                      size_t shared, int order, void** args) {
  static thread_local std::string message;
  try {
    unpack({grid_x, grid_y, grid_z}, {threads, 1, 1}, shared, static_cast<emu::Order>(order), &FASTSR_ENTRY, args);
  } catch (const std::exception& e) {
    emu::fiber = nullptr;
    message = e.what();
    return message.c_str();
  }
  return nullptr;
}
