/// Files as checkpoints and exports need them: every byte checked, made durable before it is announced, and
/// replaced by rename, so that a reader sees the old file or the new one and never a half.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/printable.h"

namespace hysparse {

/// An open file. Move-only; the destructor closes and says nothing, so writers call sync() and close().
class File {
 public:
  /// Throws Error when the path is missing, unreadable or not a regular file.
  static File open(const std::string& path);
  /// A new file (an old one is emptied). Throws Failure.
  static File create(const std::string& path);
  /// An existing file, to write into. Throws Failure.
  static File open_to_write(const std::string& path);

  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& path() const { return path_; }
  /// Bytes in the file now.
  std::int64_t size() const;
  /// Fills `to` with the bytes from `offset` on. Throws Error when the file ends before that, Failure when the
  /// device fails.
  void read(std::int64_t offset, void* to, std::int64_t bytes) const;
  /// Throws Failure (disk full, limit on file size, ...).
  void write(std::int64_t offset, const void* from, std::int64_t bytes);
  /// Takes the space for this many bytes (where the file system can; else only tries the length). Throws
  /// Failure.
  void reserve(std::int64_t bytes);
  /// Tells the system to begin writing these bytes to the device, without waiting: sync() has less to wait for.
  void start_sync(std::int64_t offset, std::int64_t bytes);
  /// Tells the system that these bytes will be read soon.
  void expect_reads(std::int64_t offset, std::int64_t bytes) const;
  /// Waits until the data is on the device. Throws Failure.
  void sync();
  void close();

 private:
  File(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  std::string path_;
  int descriptor_ = -1;
};

/// Makes the names in a directory (after create, rename, remove) durable. Throws Failure.
void sync_directory(const std::string& directory);

/// Renames within a file system, then syncs the directory of `to`. Throws Failure.
void rename_durably(const std::string& from, const std::string& to);

/// Puts `text` at `path` through path.tmp, fsync and rename. Throws Failure; `path` is then what it was.
void write_file_atomically(const std::string& path, std::string_view text);

/// A new file, not synced. Throws Failure.
void write_text_file(const std::string& path, std::string_view text);

/// The whole file; Error when it is missing or longer than `limit` bytes.
std::string read_text_file(const std::string& path, std::int64_t limit);

/// XXH3 (64 bits).
std::uint64_t xxh3(const void* bytes, std::int64_t count);
/// The same of bytes that come in parts.
class Xxh3 {
 public:
  Xxh3();
  void add(const void* bytes, std::int64_t count);
  /// Of all since the last digest.
  std::uint64_t digest();

 private:
  struct State;
  std::unique_ptr<State, void (*)(State*)> state_;
};
/// As 16 hexadecimal digits.
std::string hex_text(std::uint64_t hash);
std::string xxh3_hex(std::string_view bytes);

/// A file's size and the XXH3 of each of its blocks, so that a part can be verified without the rest.
struct FileDigest {
  std::int64_t bytes = 0;
  std::vector<std::uint64_t> blocks;  ///< of block_bytes each, the last one shorter
};
/// Reads the file through once.
FileDigest digest_file(const std::string& path, std::int64_t block_bytes);

}  // namespace hysparse
