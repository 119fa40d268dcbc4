// libFuzzer's entry: one program for each target, which HYSPARSE_FUZZ_TARGET names.
#include <cstdint>

#include "tests/fuzz/targets.h"

/// As core/hdf5.cpp has it for GCC: HDF5 1.10 itself loses memory when it refuses a damaged file.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5";
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  hysparse::fuzz::HYSPARSE_FUZZ_TARGET({reinterpret_cast<const char*>(data), size});
  return 0;
}
