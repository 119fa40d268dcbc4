#include "checkpoint/file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "core/error.h"

namespace hysparse {
namespace {

std::string directory_of(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path();
  return directory.empty() ? "." : directory;
}

/// Runs a system call again while signals interrupt it.
template <class Call>
auto retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

int open_descriptor(const std::string& path, int flags) {
  return retry([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); });
}

}  // namespace

File File::open(const std::string& path) {
  // Not blocking, so that a named pipe in the place of a file is refused rather than waited for.
  const int descriptor = open_descriptor(path, O_RDONLY | O_NONBLOCK);
  if (descriptor < 0) throw_error("{}: cannot open: {}", path, std::strerror(errno));
  File file(path, descriptor);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
    throw_error("{}: not a regular file", path);
  return file;
}

File File::create(const std::string& path) {
  const int descriptor = open_descriptor(path, O_RDWR | O_CREAT | O_TRUNC);
  if (descriptor < 0) throw_failure("{}: cannot create: {}", path, std::strerror(errno));
  return File(path, descriptor);
}

File File::open_to_write(const std::string& path) {
  const int descriptor = open_descriptor(path, O_RDWR);
  if (descriptor < 0) throw_failure("{}: cannot open for writing: {}", path, std::strerror(errno));
  return File(path, descriptor);
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

std::int64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) throw_failure("{}: cannot stat: {}", path_, std::strerror(errno));
  return status.st_size;
}

void File::read(std::int64_t offset, void* to, std::int64_t bytes) const {
  std::int64_t done = 0;
  while (done < bytes) {
    const ssize_t got = retry([&] {
      return ::pread(descriptor_, static_cast<char*>(to) + done, static_cast<std::size_t>(bytes - done),
                     offset + done);
    });
    if (got < 0) throw_failure("{}: cannot read: {}", path_, std::strerror(errno));
    if (got == 0)
      throw_error("{}: ends at byte {}, {} bytes from {} on were expected", path_, offset + done, bytes,
                  offset);
    done += got;
  }
}

void File::write(std::int64_t offset, const void* from, std::int64_t bytes) {
  std::int64_t done = 0;
  while (done < bytes) {
    const ssize_t put = retry([&] {
      return ::pwrite(descriptor_, static_cast<const char*>(from) + done,
                      static_cast<std::size_t>(bytes - done), offset + done);
    });
    if (put < 0) throw_failure("{}: cannot write: {}", path_, std::strerror(errno));
    if (put == 0) throw_failure("{}: cannot write: the device takes no more bytes", path_);
    done += put;
  }
}

void File::reserve(std::int64_t bytes) {
  if (bytes == 0) return;
  int result = retry([&] { return ::fallocate(descriptor_, 0, 0, bytes); });
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) {
    result = retry([&] { return ::ftruncate(descriptor_, bytes); });
  }
  if (result != 0) throw_failure("{}: cannot reserve {} bytes: {}", path_, bytes, std::strerror(errno));
}

void File::start_sync(std::int64_t offset, std::int64_t bytes) {
  // A hint: what goes wrong with the bytes, sync() says.
  (void)::sync_file_range(descriptor_, offset, bytes, SYNC_FILE_RANGE_WRITE);
}

void File::expect_reads(std::int64_t offset, std::int64_t bytes) const {
  (void)::posix_fadvise(descriptor_, offset, bytes, POSIX_FADV_WILLNEED);
}

void File::sync() {
  if (retry([&] { return ::fsync(descriptor_); }) != 0)
    throw_failure("{}: cannot sync: {}", path_, std::strerror(errno));
}

void File::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0 && errno != EINTR) {
    throw_failure("{}: cannot close: {}", path_, std::strerror(errno));
  }
}

void sync_directory(const std::string& directory) {
  const int descriptor = open_descriptor(directory, O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) throw_failure("{}: cannot open: {}", directory, std::strerror(errno));
  const int result = retry([&] { return ::fsync(descriptor); });
  const int error = errno;
  ::close(descriptor);
  // Some file systems cannot sync a directory and say EINVAL; their renames are as durable as they get.
  if (result != 0 && error != EINVAL) throw_failure("{}: cannot sync: {}", directory, std::strerror(error));
}

void rename_durably(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) {
    throw_failure("{}: cannot rename to {}: {}", from, to, std::strerror(errno));
  }
  sync_directory(directory_of(to));
}

void write_file_atomically(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  try {
    File file = File::create(temporary);
    file.write(0, text.data(), static_cast<std::int64_t>(text.size()));
    file.sync();
    file.close();
    rename_durably(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void write_text_file(const std::string& path, std::string_view text) {
  File file = File::create(path);
  file.write(0, text.data(), static_cast<std::int64_t>(text.size()));
  file.close();
}

std::string read_text_file(const std::string& path, std::int64_t limit) {
  const File file = File::open(path);
  const std::int64_t bytes = file.size();
  if (bytes > limit) throw_error("{}: {} bytes, at most {} are expected", path, bytes, limit);
  std::string text(static_cast<std::size_t>(bytes), '\0');
  file.read(0, text.data(), bytes);
  return text;
}

std::uint64_t xxh3(const void* bytes, std::int64_t count) {
  return XXH3_64bits(bytes, static_cast<std::size_t>(count));
}

struct Xxh3::State : XXH3_state_t {};

Xxh3::Xxh3() : state_(static_cast<State*>(XXH3_createState()), [](State* state) { XXH3_freeState(state); }) {
  if (state_ == nullptr || XXH3_64bits_reset(state_.get()) != XXH_OK) throw_failure("no memory for a checksum");
}

void Xxh3::add(const void* bytes, std::int64_t count) {
  XXH3_64bits_update(state_.get(), bytes, static_cast<std::size_t>(count));
}

std::uint64_t Xxh3::digest() {
  const std::uint64_t hash = XXH3_64bits_digest(state_.get());
  XXH3_64bits_reset(state_.get());
  return hash;
}

std::string hex_text(std::uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

std::string xxh3_hex(std::string_view bytes) {
  return hex_text(XXH3_64bits(bytes.data(), bytes.size()));
}

FileDigest digest_file(const std::string& path, std::int64_t block_bytes) {
  const File file = File::open(path);
  FileDigest digest{file.size(), {}};
  std::vector<char> buffer(static_cast<std::size_t>(std::min(digest.bytes, block_bytes)));
  for (std::int64_t offset = 0; offset < digest.bytes; offset += block_bytes) {
    const std::int64_t part = std::min(digest.bytes - offset, block_bytes);
    file.read(offset, buffer.data(), part);
    digest.blocks.push_back(xxh3(buffer.data(), part));
  }
  return digest;
}

}  // namespace hysparse
