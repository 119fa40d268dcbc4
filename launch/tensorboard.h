/// TensorBoard event files, written without TensorBoard. A file is a row of records
///   u64 length, u32 masked_crc32c(length), bytes, u32 masked_crc32c(bytes)        (TFRecord framing,
///   little-endian)
/// whose bytes are Event messages in protobuf's wire format:
///   Event{1: double wall_time, 2: int64 step, 3: string file_version | 5: Summary | 7: SessionLog}
///   Summary{1: repeated Value{1: string tag, 2: float simple_value}}
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launch/append_file.h"
#include "launch/metrics.h"

namespace hysparse {

/// CRC-32C (Castagnoli, reflected 0x82f63b78) of bytes; crc32c("123456789") is 0xe3069283.
std::uint32_t crc32c(std::string_view bytes);
/// TFRecord's mask: rotated right by 15 bits, plus 0xa282ead8.
std::uint32_t masked_crc32c(std::string_view bytes);

/// One scalar of an event: tag and value.
using Scalar = std::pair<std::string, double>;

/// The scalars of a step under their tags: loss/train, loss/valid, grad_norm, lr, throughput/tokens_per_s, ...
std::vector<Scalar> step_scalars(const StepMetrics& metrics);

class EventWriter {
 public:
  /// A new file in `directory` (made if it is missing). TensorBoard is told to forget what older files hold of
  /// the steps after `resume_step`. Throws Failure when it cannot write.
  EventWriter(const std::string& directory, std::int64_t resume_step);

  const std::string& path() const { return file_->path(); }
  /// One event with all scalars, handed to the system before this returns. Throws Failure.
  void write(std::int64_t step, const std::vector<Scalar>& scalars);

 private:
  void write_record(const std::string& event);

  std::unique_ptr<AppendFile> file_;
};

}  // namespace hysparse
