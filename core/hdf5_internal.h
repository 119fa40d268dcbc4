/// Shared by core/hdf5*.cpp only.
#pragma once

#include <cstdint>
#include <string>

#include "core/hdf5.h"

namespace hysparse::hdf5_internal {

/// Turns off HDF5's printing of errors on this thread; called first by everything that calls HDF5.
void quiet();
/// The innermost entry of HDF5's error stack.
std::string reason();
/// HDF5's identifier of an element type in file and memory.
std::int64_t element_type(Hdf5Type type);

}  // namespace hysparse::hdf5_internal
