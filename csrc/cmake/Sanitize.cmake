# FASTSR_SANITIZE=address (undefined behaviour too) or thread: for bench/sanitize_cpu.sh, by gcc or clang.
# FASTSR_OPTIMIZE is how hard kernels are optimised, and what else only they get.

set(FASTSR_SANITIZE OFF CACHE STRING "Build with sanitizers: address (and undefined behaviour), thread, OFF")
set_property(CACHE FASTSR_SANITIZE PROPERTY STRINGS address thread OFF)
set(FASTSR_OPTIMIZE -O3)
if(FASTSR_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=address,undefined)
  # Unrolled loops of vector loads: with a check written out at every load a kernel takes a minute to compile, with calls
  # that check 6 s. Address sees what the checks left out see, but pointers that are made and not used.
  set(FASTSR_OPTIMIZE -O1 -fno-sanitize=alignment,null,object-size,pointer-overflow,vptr)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    list(APPEND FASTSR_OPTIMIZE -mllvm -asan-instrumentation-with-call-threshold=0)
  else()
    list(APPEND FASTSR_OPTIMIZE --param asan-instrumentation-with-call-threshold=0)
  endif()
elseif(FASTSR_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=thread)
  set(FASTSR_OPTIMIZE -O1)
elseif(FASTSR_SANITIZE)
  message(FATAL_ERROR "FASTSR_SANITIZE=${FASTSR_SANITIZE} is not one of address, thread, OFF")
endif()
if(FASTSR_SANITIZE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)  # of others pybind11 strips the names
endif()
