#include "data/token_writer.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <unistd.h>

#include "core/error.h"
#include "core/hdf5.h"

namespace hysparse {
namespace {

constexpr std::size_t buffer_bytes = 1 << 20;
constexpr std::size_t most_command_bytes = 4096;  // an attribute holds 64 KiB

std::string directory_of(const std::string& path) {
  const std::string directory = std::filesystem::path(path).parent_path().string();
  return directory.empty() ? "." : directory;
}

/// Copies a spool of elements into a 1-D dataset.
void copy_to_dataset(SpoolFile& spool, Hdf5File& file, const std::string& name, Hdf5Type type) {
  const std::int64_t size = hdf5_type_size(type), total = spool.bytes() / size;
  file.create_dataset(name, type, std::span(&total, 1));
  std::vector<char> chunk(buffer_bytes);
  for (std::int64_t begin = 0; begin < total;) {
    const std::int64_t count = std::min(total - begin, static_cast<std::int64_t>(buffer_bytes) / size);
    spool.read(begin * size, chunk.data(), count * size);
    file.write_slab(name, type, std::span(&begin, 1), std::span(&count, 1), chunk.data());
    begin += count;
  }
}

}  // namespace

SpoolFile::SpoolFile(const std::string& path) : path_(path) {
  std::string pattern = path + ".spool-XXXXXX";
  fd_ = ::mkostemp(pattern.data(), O_CLOEXEC);
  if (fd_ < 0)
    throw_error("{}: cannot write in directory {}: {}", path, directory_of(path), std::strerror(errno));
  ::unlink(pattern.c_str());
  buffer_.reserve(buffer_bytes);
}

SpoolFile::~SpoolFile() {
  ::close(fd_);
}

void SpoolFile::append(const void* data, std::int64_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const auto take = std::min(bytes, static_cast<std::int64_t>(buffer_bytes - buffer_.size()));
    buffer_.insert(buffer_.end(), from, from + take);
    from += take;
    bytes -= take;
    if (buffer_.size() == buffer_bytes) flush();
  }
}

void SpoolFile::flush() {
  for (std::size_t done = 0; done < buffer_.size();) {
    const ssize_t n = ::pwrite(fd_, buffer_.data() + done, buffer_.size() - done, written_);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw_failure("{}: cannot write its temporary file: {}", path_, std::strerror(errno));
    done += static_cast<std::size_t>(n);
    written_ += n;
  }
  buffer_.clear();
}

void SpoolFile::read(std::int64_t offset, void* data, std::int64_t bytes) {
  flush();
  char* to = static_cast<char*>(data);
  for (std::int64_t done = 0; done < bytes;) {
    const ssize_t n = ::pread(fd_, to + done, static_cast<std::size_t>(bytes - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw_failure("{}: cannot read its temporary file back", path_);
    done += n;
  }
}

TokenWriter::TokenWriter(const std::string& path, const TokenFileInfo& info)
    : path_(path),
      temporary_(fmt::format("{}.partial-{}", path, ::getpid())),
      info_(info),
      wide_(info.vocab_size > 65536),
      tokens_(path),
      doc_ends_(path) {
  if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
    throw_error("{}: is a directory, expected the name of a file to write", path);
  }
  if (info_.command.size() > most_command_bytes) {
    info_.command.resize(most_command_bytes);
    info_.command += " ...";
  }
  std::replace(info_.command.begin(), info_.command.end(), '\0', ' ');
}

TokenWriter::~TokenWriter() {
  if (!temporary_.empty()) std::remove(temporary_.c_str());
}

void TokenWriter::append_document(std::span<const std::int32_t> tokens) {
  HYSPARSE_CHECK(!tokens.empty() && !finished_);
  std::int32_t lowest = 0, highest = 0;
  for (const std::int32_t id : tokens) {
    lowest = std::min(lowest, id);
    highest = std::max(highest, id);
  }
  HYSPARSE_CHECK(lowest >= 0 && highest < info_.vocab_size, "ids {}..{}, vocab_size {}", lowest, highest,
                 info_.vocab_size);
  if (wide_) {
    tokens_.append(tokens.data(), static_cast<std::int64_t>(tokens.size_bytes()));
  } else {
    narrow_.resize(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) narrow_[i] = static_cast<std::uint16_t>(tokens[i]);
    tokens_.append(narrow_.data(), static_cast<std::int64_t>(narrow_.size() * sizeof(std::uint16_t)));
  }
  num_tokens_ += static_cast<std::int64_t>(tokens.size());
  const auto end = static_cast<std::uint64_t>(num_tokens_);
  doc_ends_.append(&end, sizeof end);
}

void TokenWriter::finish() {
  HYSPARSE_CHECK(num_tokens_ > 0 && !finished_);
  Hdf5File file = Hdf5File::create(temporary_);
  file.set_attribute("", "tokenizer", info_.tokenizer);
  file.set_attribute("", "tokenizer_hash", info_.tokenizer_hash);
  file.set_attribute("", "vocab_size", info_.vocab_size);
  file.set_attribute("", "eos_id", static_cast<std::int64_t>(info_.eos_id));
  file.set_attribute("", "command", info_.command);
  copy_to_dataset(doc_ends_, file, "doc_ends", Hdf5Type::u64);
  copy_to_dataset(tokens_, file, "tokens", wide_ ? Hdf5Type::u32 : Hdf5Type::u16);
  file.close_and_sync();
  finished_ = true;
}

void TokenWriter::commit() {
  HYSPARSE_CHECK(finished_ && !temporary_.empty());
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw_failure("{}: cannot rename {} to it: {}", path_, temporary_, std::strerror(errno));
  }
  temporary_.clear();
  const int fd =
      ::open(directory_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // the name, too, to disk
  if (fd >= 0) {
    ::fsync(fd);
    ::close(fd);
  }
}

}  // namespace hysparse
