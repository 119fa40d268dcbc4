/// How storage.cpp counts its blocks: see memory.h.
#pragma once

#include <cstdint>

#include "core/memory.h"

namespace hysparse {

/// `delta` bytes more of a purpose on a device, or fewer.
void count_memory(Device device, MemoryPurpose purpose, std::int64_t delta);

}  // namespace hysparse
