/// Token ids in a file, mapped into memory: random access without reading the whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace hysparse {

/// A file mapped for reading, unmapped with its owner.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws Error when the file cannot be read or is not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  /// nullptr for an empty file.
  const std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  std::span<const std::byte> span() const { return {data_, static_cast<std::size_t>(bytes_)}; }

 private:
  const std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual const std::string& path() const = 0;
  virtual std::int64_t num_tokens() const = 0;
  /// Tokens [begin, begin + out.size()), which must lie inside. Throws Error, naming file and position, for an
  /// id that the file's vocabulary does not hold.
  virtual void read(std::int64_t begin, std::span<std::int32_t> out) const = 0;
};

/// Reads the whole stream, so that a bad id is found now. Returns the largest id.
std::int32_t check_ids(const TokenStream& tokens);

}  // namespace hysparse
