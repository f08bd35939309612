# FASTSR_SANITIZE=address (undefined behaviour too) or thread, by gcc or clang: what bench/sanitize_cpu.sh runs tests with.
# FASTSR_OPTIMIZE: how kernels are optimised, and what else only they get.

set(FASTSR_SANITIZE OFF CACHE STRING "Build with sanitizers: address (and undefined behaviour), thread, OFF")
set_property(CACHE FASTSR_SANITIZE PROPERTY STRINGS address thread OFF)
set(FASTSR_OPTIMIZE -O3)

if(FASTSR_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "FASTSR_FUZZ needs clang: -DCMAKE_CXX_COMPILER=clang++")
  endif()
  set(FASTSR_SANITIZE address)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

if(FASTSR_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
  # Kernels are unrolled loops of vector loads: with checks written out they take a minute each to compile, with calls 6 s.
  # The checks that they go without are of pointers that are made; what is read and written through them is checked.
  set(FASTSR_OPTIMIZE -O1 -fno-sanitize=alignment,null,object-size,pointer-overflow,vptr)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    list(APPEND FASTSR_OPTIMIZE -mllvm -asan-instrumentation-with-call-threshold=0)
  else()
    list(APPEND FASTSR_OPTIMIZE --param asan-instrumentation-with-call-threshold=0)
  endif()
elseif(FASTSR_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread)
  add_link_options(-fsanitize=thread)
  set(FASTSR_OPTIMIZE -O1)
elseif(FASTSR_SANITIZE)
  message(FATAL_ERROR "FASTSR_SANITIZE=${FASTSR_SANITIZE} is not one of address, thread, OFF")
endif()

if(FASTSR_SANITIZE)
  add_compile_options(-fno-omit-frame-pointer)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)  # else pybind11 takes the names out, which reports want
endif()
