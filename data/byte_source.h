/// Bytes one after another: of a file as it is, of a .zst file unpacked, or of standard input.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace hysparse {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Up to `bytes` of them; 0 only at the end. Throws Error, naming the file: cannot be read, no valid zstd,
  /// cut off in the middle.
  virtual std::int64_t read(char* out, std::int64_t bytes) = 0;
  /// Bytes of the file itself that were read.
  virtual std::int64_t file_bytes() const = 0;
};

/// `path` "-" is standard input. Throws Error.
std::unique_ptr<ByteSource> open_byte_source(const std::string& path);

}  // namespace hysparse
