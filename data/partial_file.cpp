#include "data/partial_file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr std::int64_t buffer_bytes = 1 << 20;
constexpr std::int64_t start_bytes = 32 << 20;

std::string directory_of(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path().string();
  return directory.empty() ? "." : directory;
}

/// Whether the name still stands for the open file.
bool same_file(int fd, const std::string& path) {
  struct stat open_file {
  }, named{};
  return ::fstat(fd, &open_file) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open_file.st_ino == named.st_ino && open_file.st_dev == named.st_dev;
}

}  // namespace

void PartialFile::open(const std::string& output) {
  while (true) {
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd_ < 0) {
      throw_error("{}: cannot write in directory {}: {}", output, directory_of(path_), std::strerror(errno));
    }
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd_);
      throw_error("{}: another process is writing it ({} is locked)", output, path_);
    }
    if (same_file(fd_, path_)) return;
    ::close(fd_);  // whoever had the lock gave the file its final name meanwhile
  }
}

PartialFile::PartialFile(std::string path, const std::string& output, std::int64_t front_bytes,
                         std::int64_t keep)
    : path_(std::move(path)), front_(front_bytes), written_(keep), started_(keep) {
  open(output);
  struct stat status {};
  const bool whole = ::fstat(fd_, &status) == 0 && status.st_size >= front_ + keep;
  const bool cut = (keep > 0 || ::ftruncate(fd_, 0) == 0) && ::ftruncate(fd_, front_ + keep) == 0;
  if ((keep > 0 && !whole) || !cut) {
    const int error = errno;
    ::close(fd_);
    if (!cut) throw_failure("{}: cannot write: {}", path_, std::strerror(error));
    throw_error("{}: {} bytes, expected at least {}", path_, status.st_size, front_ + keep);
  }
  buffer_.reserve(static_cast<std::size_t>(buffer_bytes));
}

PartialFile::~PartialFile() {
  ::close(fd_);
}

void PartialFile::append(const void* data, std::int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  if (static_cast<std::int64_t>(buffer_.size()) + bytes > buffer_bytes) flush();
  if (bytes < buffer_bytes) {
    buffer_.insert(buffer_.end(), from, from + bytes);
    return;
  }
  write_at(from, bytes, front_ + written_);
  written_ += bytes;
}

void PartialFile::flush() {
  write_at(buffer_.data(), static_cast<std::int64_t>(buffer_.size()), front_ + written_);
  written_ += static_cast<std::int64_t>(buffer_.size());
  buffer_.clear();
  if (written_ - started_ < start_bytes) return;
  // The disk begins now, so that the sync at the end has little left to wait for.
  static_cast<void>(::sync_file_range(fd_, front_ + started_, written_ - started_, SYNC_FILE_RANGE_WRITE));
  started_ = written_;
}

void PartialFile::write_at(const void* data, std::int64_t bytes, std::int64_t offset) {
  const char* from = static_cast<const char*>(data);
  for (std::int64_t done = 0; done < bytes;) {
    const ssize_t n = ::pwrite(fd_, from + done, static_cast<std::size_t>(bytes - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw_failure("{}: cannot write: {}", path_, std::strerror(n < 0 ? errno : ENOSPC));
    done += n;
  }
}

void PartialFile::write_front(const void* data, std::int64_t bytes) {
  HYSPARSE_CHECK(bytes <= front_, "{} bytes into a front of {}", bytes, front_);
  write_at(data, bytes, 0);
}

void PartialFile::reserve(std::int64_t more) {
  flush();
  for (const auto& [offset, bytes] : {std::pair(std::int64_t{0}, front_), {front_ + written_, more}}) {
    // A file system that cannot do it says so; writing will find out.
    if (bytes > 0 && ::fallocate(fd_, 0, offset, bytes) != 0 && errno != EOPNOTSUPP) {
      throw_failure("{}: cannot write: {}", path_, std::strerror(errno));
    }
  }
}

void PartialFile::read(std::int64_t offset, void* data, std::int64_t bytes) {
  flush();
  char* to = static_cast<char*>(data);
  for (std::int64_t done = 0; done < bytes;) {
    const ssize_t n = ::pread(fd_, to + done, static_cast<std::size_t>(bytes - done), front_ + offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw_failure("{}: cannot read it back", path_);
    done += n;
  }
}

void PartialFile::sync() {
  flush();
  if (::fsync(fd_) != 0) throw_failure("{}: cannot sync it to disk: {}", path_, std::strerror(errno));
}

void sync_directory_of(const std::string& path) {
  const int fd = ::open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace hysparse
