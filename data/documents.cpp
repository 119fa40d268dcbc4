#include "data/documents.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_line_bytes = std::int64_t{1} << 30;
constexpr std::int64_t most_file_bytes = std::int64_t{4} << 30;

void list_directory(const fs::path& directory, std::vector<std::string>& files) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const bool hidden = it->path().filename().string().starts_with('.');
    std::error_code unknown;  // a broken link is no regular file
    if (hidden && it->is_directory(unknown)) it.disable_recursion_pending();
    if (!hidden && it->is_regular_file(unknown)) files.push_back(it->path().string());
  }
  if (error) throw_error("{}: cannot list it: {}", directory.string(), error.message());
}

/// Appends up to `bytes`; returns how many there were.
std::int64_t append_from(ByteSource& source, std::string& to, std::int64_t bytes) {
  const std::size_t before = to.size();
  to.resize(before + static_cast<std::size_t>(bytes));
  std::int64_t got = 0;
  try {
    got = source.read(to.data() + before, bytes);
  } catch (...) {
    to.resize(before);
    throw;
  }
  to.resize(before + static_cast<std::size_t>(got));
  return got;
}

std::int64_t size_of(const std::string& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  return error ? 0 : static_cast<std::int64_t>(size);
}

}  // namespace

std::vector<std::string> list_input_files(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    std::error_code error;
    if (input == "-") {
      files.push_back(input);
      continue;
    }
    const fs::file_status status = fs::status(input, error);
    if (fs::is_directory(status)) {
      list_directory(input, files);
    } else if (fs::is_regular_file(status)) {
      files.push_back(input);
    } else {
      throw_error("{}: {}", input, error ? error.message() : "neither a file nor a directory");
    }
  }
  for (std::string& file : files) file = fs::path(file).lexically_normal().string();
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

DocumentReader::DocumentReader(std::vector<std::string> files, const DocumentReaderOptions& options)
    : files_(std::move(files)), options_(options), at_(options.begin) {
  for (std::int64_t f = 0; f < at_.file; ++f) done_bytes_ += size_of(files_[static_cast<std::size_t>(f)]);
}

bool DocumentReader::is_lines(const std::string& path) const {
  if (path == "-") return options_.stdin_lines;
  return path.ends_with(".jsonl") || path.ends_with(".jsonl.zst");
}

void DocumentReader::close_file() {
  done_bytes_ += source_->file_bytes();
  source_.reset();
  at_ = {at_.file + 1, 0};
}

void DocumentReader::skip(std::int64_t bytes) {
  std::string skipped;
  for (std::int64_t left = bytes; left > 0;) {
    skipped.clear();
    const std::int64_t got = append_from(*source_, skipped, std::min(left, options_.chunk_bytes));
    if (got == 0) {
      throw_error("{}: ends at byte {}, before {}", files_[static_cast<std::size_t>(at_.file)], bytes - left,
                  bytes);
    }
    left -= got;
  }
}

void DocumentReader::next_lines(DocumentChunk& chunk) {
  const std::string& path = files_[static_cast<std::size_t>(at_.file)];
  if (source_ == nullptr) {
    source_ = open_byte_source(path);
    skip(at_.offset);
  }
  chunk.lines = true;
  chunk.from_start = at_.offset == 0;
  chunk.bytes = std::move(carried_);
  carried_.clear();
  std::size_t newline = std::string::npos;
  bool more = true;
  while (newline == std::string::npos || static_cast<std::int64_t>(chunk.bytes.size()) < options_.chunk_bytes) {
    const std::size_t before = chunk.bytes.size();
    more = append_from(*source_, chunk.bytes, options_.chunk_bytes) > 0;
    if (!more) break;
    const std::size_t found = std::string_view(chunk.bytes).substr(before).rfind('\n');
    if (found != std::string::npos) newline = before + found;
    if (newline == std::string::npos && static_cast<std::int64_t>(chunk.bytes.size()) > most_line_bytes) {
      throw_error("{}: a line of more than {} bytes", path, most_line_bytes);
    }
  }
  if (more) {
    carried_ = chunk.bytes.substr(newline + 1);
    chunk.bytes.resize(newline + 1);
  }
  at_.offset += static_cast<std::int64_t>(chunk.bytes.size());
  if (!more) close_file();
}

void DocumentReader::next_files(DocumentChunk& chunk) {
  while (at_.file < static_cast<std::int64_t>(files_.size()) &&
         static_cast<std::int64_t>(chunk.bytes.size()) < options_.chunk_bytes) {
    const std::string& path = files_[static_cast<std::size_t>(at_.file)];
    if (is_lines(path)) break;
    const std::size_t begin = chunk.bytes.size();
    source_ = open_byte_source(path);
    std::int64_t piece = std::min(options_.chunk_bytes, size_of(path) + 1);  // one read for a small file
    while (append_from(*source_, chunk.bytes, std::max<std::int64_t>(piece, 4096)) > 0) {
      piece = options_.chunk_bytes;
      if (static_cast<std::int64_t>(chunk.bytes.size() - begin) > most_file_bytes) {
        throw_error("{}: more than {} bytes, and a file of text is one document: split it, or make it JSONL",
                    path, most_file_bytes);
      }
    }
    chunk.ends.push_back(static_cast<std::int64_t>(chunk.bytes.size()));
    close_file();
  }
}

bool DocumentReader::next(DocumentChunk& chunk) {
  chunk = {};
  if (at_.file >= static_cast<std::int64_t>(files_.size())) return false;
  chunk.file = at_.file;
  if (is_lines(files_[static_cast<std::size_t>(at_.file)])) {
    next_lines(chunk);
  } else {
    next_files(chunk);
  }
  chunk.next = at_;
  chunk.read_bytes = done_bytes_ + (source_ ? source_->file_bytes() : 0);
  return true;
}

}  // namespace hysparse
