# HYSPARSE_FUZZ: the readers of files under libFuzzer and the address and undefined-behaviour sanitizers.
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  message(FATAL_ERROR "HYSPARSE_FUZZ needs clang (libFuzzer is part of it), and the compiler is "
    "${CMAKE_CXX_COMPILER_ID}: tests/fuzz/run chooses it, or configure a fresh build folder with "
    "-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++")
endif()
if(HYSPARSE_CUDA OR HYSPARSE_SANITIZE)
  message(FATAL_ERROR "HYSPARSE_FUZZ goes without HYSPARSE_CUDA, and brings its own sanitizers (HYSPARSE_SANITIZE)")
endif()
set(HYSPARSE_NATIVE OFF)
set(HYSPARSE_TESTS OFF)
