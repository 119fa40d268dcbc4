/// A file under its temporary name: written from the front, read back, and found again by a later process when
/// this one was killed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hysparse {

class PartialFile {
 public:
  /// Opens or makes `path`. The first `front_bytes` are left to others and stay a hole. `keep` bytes behind
  /// them are kept, what follows is cut off. `output` begins messages. Throws Error when the directory is
  /// missing or not writable, when another process is writing the file, or when it holds less than was to be
  /// kept.
  PartialFile(std::string path, const std::string& output, std::int64_t front_bytes = 0, std::int64_t keep = 0);
  /// The file stays.
  ~PartialFile();
  PartialFile(const PartialFile&) = delete;
  PartialFile& operator=(const PartialFile&) = delete;

  const std::string& path() const { return path_; }
  /// Throws Failure (disk full).
  void append(const void* data, std::int64_t bytes);
  /// Bytes appended so far, kept ones included, the front not.
  std::int64_t bytes() const { return written_ + static_cast<std::int64_t>(buffer_.size()); }
  /// The bytes [offset, offset + bytes) behind the front. Throws Failure when they cannot be read.
  void read(std::int64_t offset, void* data, std::int64_t bytes);
  /// Writes bytes into the front.
  void write_front(const void* data, std::int64_t bytes);
  /// Takes disk blocks for the front and for `more` bytes at the end, for others to write there. Throws Failure
  /// (disk full).
  void reserve(std::int64_t more);
  /// Everything to the system, so that it outlives this process.
  void flush();
  /// And to disk.
  void sync();

 private:
  void open(const std::string& output);
  void write_at(const void* data, std::int64_t bytes, std::int64_t offset);

  std::string path_;
  std::int64_t front_;
  int fd_ = -1;
  std::int64_t written_ = 0, started_ = 0;  // behind the front; the disk was told to start on the latter
  std::vector<char> buffer_;
};

/// The directory's entries to disk: names that were given or taken in it.
void sync_directory_of(const std::string& path);

}  // namespace hysparse
