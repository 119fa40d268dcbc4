/// Writes an HDF5 token dataset (data/token_file.h) of a length not known beforehand, in bounded memory: tokens
/// and document ends go to unnamed temporary files beside the output, then into the HDF5 file once they are
/// counted. The output appears under its name, complete and on disk, or not at all.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/token_file.h"

namespace hysparse {

/// A temporary file without a name, written from the front and read back; gone with its owner.
class SpoolFile {
 public:
  /// Beside `path`. Throws Error when its directory is missing or not writable.
  explicit SpoolFile(const std::string& path);
  ~SpoolFile();
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;

  void append(const void* data, std::int64_t bytes);
  /// Bytes appended so far.
  std::int64_t bytes() const { return written_ + static_cast<std::int64_t>(buffer_.size()); }
  /// The bytes [offset, offset + bytes). Throws Failure when they cannot be read.
  void read(std::int64_t offset, void* data, std::int64_t bytes);

 private:
  void flush();
  std::string path_;
  int fd_ = -1;
  std::int64_t written_ = 0;
  std::vector<char> buffer_;
};

class TokenWriter {
 public:
  /// Throws Error when `path` is a directory, or its directory is missing or not writable.
  TokenWriter(const std::string& path, const TokenFileInfo& info);
  /// Removes the temporary file, if any.
  ~TokenWriter();
  TokenWriter(const TokenWriter&) = delete;
  TokenWriter& operator=(const TokenWriter&) = delete;

  /// One document; its tokens, eos_id included, must be in the vocabulary and at least one. Throws Failure when
  /// the disk is full.
  void append_document(std::span<const std::int32_t> tokens);
  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_documents() const { return doc_ends_.bytes() / 8; }

  /// Writes the whole HDF5 file under a temporary name and syncs it. At least one document must be there.
  void finish();
  /// After finish(): gives the file its name, in place of one that is there.
  void commit();

 private:
  std::string path_, temporary_;
  TokenFileInfo info_;
  bool wide_;
  SpoolFile tokens_, doc_ends_;
  std::int64_t num_tokens_ = 0;
  std::vector<std::uint16_t> narrow_;
  bool finished_ = false;
};

}  // namespace hysparse
