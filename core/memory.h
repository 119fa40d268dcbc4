/// Whose the tensors' memory is: every block is counted under the purpose that was set when it was made, so
/// that a run can say what it needs its memory for, and an error what has used it up.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/device.h"

namespace hysparse {

enum class MemoryPurpose : std::uint8_t {
  parameters,     ///< values
  gradients,      ///< of parameters
  optimizer,      ///< its state, and the master values where they are apart
  activations,    ///< what the forward pass makes and keeps for backward
  backward,       ///< gradients of activations, scratch of backward
  communication,  ///< send and receive buffers
  data,           ///< batches
  other
};
constexpr std::size_t memory_purposes = 8;
const char* memory_purpose_name(MemoryPurpose purpose);

/// Sets the purpose of the blocks that this thread allocates, until the end of the scope.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryPurpose purpose);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;

 private:
  MemoryPurpose before_;
};
/// `other` where no scope is open.
MemoryPurpose current_memory_purpose();

/// Bytes by purpose.
struct MemoryTable {
  std::array<std::int64_t, memory_purposes> bytes{};
  std::int64_t of(MemoryPurpose purpose) const { return bytes[static_cast<std::size_t>(purpose)]; }
  std::int64_t total() const;
  /// "gradients 2.4 GiB, parameters 1.2 GiB", largest first, those with none left out.
  std::string str() const;
};

/// Bytes in a device's live blocks now, and the most there have been since the last reset (which sets it to the
/// live count). Of GPUs a process has one.
struct MemoryUse {
  std::int64_t live_bytes;
  std::int64_t peak_bytes;
};
MemoryUse memory_use(Device device = {});
void reset_memory_peak(Device device = {});
/// The live blocks by purpose, now and when there were most of them: these sum to live_bytes and to peak_bytes.
MemoryTable memory_now(Device device = {});
MemoryTable memory_at_peak(Device device = {});

/// "512 B", "185 MiB", "1.5 GiB".
std::string bytes_text(std::int64_t bytes);

/// Tells the C library to keep the memory of freed blocks of up to 32 MiB for the next ones, rather than give
/// it back to the system and fault it in again: a step's tensors have the same sizes each time. For programs,
/// not for libraries: once, before threads start.
void keep_freed_memory();

}  // namespace hysparse
