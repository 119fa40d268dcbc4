#include "data/byte_source.h"

#include <cerrno>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include "core/error.h"

namespace hysparse {
namespace {

class FileSource final : public ByteSource {
 public:
  explicit FileSource(std::string path) : path_(std::move(path)) {
    fd_ = path_ == "-" ? STDIN_FILENO : ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) throw_error("{}: cannot read it: {}", path_, std::strerror(errno));
    static_cast<void>(::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL));
  }
  ~FileSource() override {
    if (fd_ != STDIN_FILENO) ::close(fd_);
  }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  const std::string& path() const { return path_; }
  std::int64_t read(char* out, std::int64_t bytes) override {
    ssize_t got = 0;
    do {
      got = ::read(fd_, out, static_cast<std::size_t>(bytes));
    } while (got < 0 && errno == EINTR);
    if (got < 0) throw_error("{}: cannot read it: {}", path_, std::strerror(errno));
    read_ += got;
    return got;
  }
  std::int64_t file_bytes() const override { return read_; }

 private:
  std::string path_;
  int fd_ = -1;
  std::int64_t read_ = 0;
};

class ZstdSource final : public ByteSource {
 public:
  explicit ZstdSource(const std::string& path)
      : file_(path), stream_(ZSTD_createDStream(), ZSTD_freeDStream), packed_(ZSTD_DStreamInSize()) {
    // As far as zstd --long=31, which collections of the web use; the default stops at 27.
    constexpr int most_window = 31;
    if (stream_ == nullptr ||
        ZSTD_isError(ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, most_window))) {
      throw_failure("{}: cannot start zstd", path);
    }
  }

  std::int64_t read(char* out, std::int64_t bytes) override {
    ZSTD_outBuffer to{out, static_cast<std::size_t>(bytes), 0};
    while (to.pos == 0) {
      if (from_.pos == from_.size) {
        const std::int64_t got = file_.read(packed_.data(), static_cast<std::int64_t>(packed_.size()));
        from_ = {packed_.data(), static_cast<std::size_t>(got), 0};
      }
      const bool at_end = from_.size == 0;
      if (at_end && wanted_ == 0) return 0;
      wanted_ = ZSTD_decompressStream(stream_.get(), &to, &from_);  // at the end: what it still holds
      if (ZSTD_isError(wanted_)) throw_error("{}: no valid zstd: {}", file_.path(), ZSTD_getErrorName(wanted_));
      if (at_end && to.pos == 0 && wanted_ != 0) {
        throw_error("{}: cut off in the middle of a zstd frame", file_.path());
      }
    }
    return static_cast<std::int64_t>(to.pos);
  }
  std::int64_t file_bytes() const override { return file_.file_bytes(); }

 private:
  FileSource file_;
  std::unique_ptr<ZSTD_DStream, decltype(&ZSTD_freeDStream)> stream_;
  std::vector<char> packed_;
  ZSTD_inBuffer from_{nullptr, 0, 0};
  std::size_t wanted_ = 1;  // by the frame; 0 at its end. An empty file is no frame.
};

}  // namespace

std::unique_ptr<ByteSource> open_byte_source(const std::string& path) {
  if (path.ends_with(".zst")) return std::make_unique<ZstdSource>(path);
  return std::make_unique<FileSource>(path);
}

}  // namespace hysparse
