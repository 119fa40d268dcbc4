#include "data/token_stream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace hysparse {

MappedFile::MappedFile(const std::string& path) {
  // Not blocking, so that a named pipe in the place of a file is refused rather than waited for.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw_error("{}: cannot read it: {}", path, std::strerror(errno));
  struct stat status {};
  const bool regular = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  void* map = nullptr;
  if (regular && status.st_size > 0) {
    map = ::mmap(nullptr, static_cast<std::size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
  }
  const int error = errno;
  ::close(fd);
  if (!regular) throw_error("{}: not a regular file", path);
  if (map == MAP_FAILED) throw_failure("{}: cannot map it: {}", path, std::strerror(error));
  data_ = static_cast<const std::byte*>(map);
  bytes_ = status.st_size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(bytes_));
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

std::int32_t check_ids(const TokenStream& tokens) {
  std::vector<std::int32_t> buffer(
      static_cast<std::size_t>(std::min<std::int64_t>(tokens.num_tokens(), 1 << 18)));
  std::int32_t largest = 0;
  for (std::int64_t begin = 0; begin < tokens.num_tokens(); begin += static_cast<std::int64_t>(buffer.size())) {
    const auto count =
        std::min<std::int64_t>(tokens.num_tokens() - begin, static_cast<std::int64_t>(buffer.size()));
    const std::span<std::int32_t> part(buffer.data(), static_cast<std::size_t>(count));
    tokens.read(begin, part);
    for (const std::int32_t id : part) largest = std::max(largest, id);
  }
  return largest;
}

}  // namespace hysparse
