/// Writes a token dataset of any format but raw, of a length not known beforehand, in bounded memory. Ids go
/// straight to their place in the file that will be the output, under the name OUTPUT.partial; document ends to
/// OUTPUT.partial-ends. Outputs appear under their names complete and on disk, or not at all; where a dataset
/// has several files, the one that makes it readable comes last, and an old one is taken away first.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/partial_file.h"
#include "data/token_dataset.h"

namespace hysparse {

/// The format that an output's name asks for: .idx megatron, .ds datatrove, .bin llmc, any other hdf5.
TokenFormat token_format_of_name(const std::string& path);
/// The files of a dataset, the one with the ids first. For megatron `path` may be either file or the prefix.
std::vector<std::string> token_output_files(const std::string& path, TokenFormat format);
/// The temporary files of a writer.
std::vector<std::string> token_partial_files(const std::string& path, TokenFormat format);

/// How far a writer has come: enough for a later process to go on from there.
struct TokenWriterState {
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
};

class TokenWriter {
 public:
  /// `resume` goes on with the temporary files of a writer that was killed, from a state that it had reached in
  /// sync(). Throws Error when `path` is a directory, its directory is missing or not writable, another process
  /// writes the same output, or the temporary files hold less than `resume` says.
  TokenWriter(const std::string& path, TokenFileInfo info, TokenFormat format = TokenFormat::hdf5,
              const TokenWriterState& resume = {});
  /// Removes the temporary files, unless they are kept.
  ~TokenWriter();
  TokenWriter(const TokenWriter&) = delete;
  TokenWriter& operator=(const TokenWriter&) = delete;

  /// Bytes of an id in the file: 2 for at most 65536 ids, else 4.
  std::int64_t id_bytes() const { return id_bytes_; }
  /// One document; its tokens, eos_id included, must be in the vocabulary and at least one. Throws Failure when
  /// the disk is full.
  void append_document(std::span<const std::int32_t> tokens);
  /// Documents one after another, their ids as in the file and already held against the vocabulary, and the
  /// number of tokens of each.
  void append_documents(std::span<const std::byte> ids, std::span<const std::int64_t> lengths);
  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_documents() const { return doc_ends_.bytes() / 8; }

  /// What was appended so far, to disk.
  TokenWriterState sync();
  /// From now on the temporary files outlive this writer, unless it commits.
  void keep() { keep_ = true; }
  void discard() { keep_ = false; }
  /// Completes the files under temporary names and syncs them. At least one document must be there.
  void finish();
  /// After finish(): gives the files their names, in place of those that are there.
  void commit();

 private:
  void finish_hdf5();
  void finish_megatron();
  void finish_datatrove();
  void finish_llmc();
  /// A further output file of `bytes`, written by `fill`.
  template <class Fill>
  void write_beside(const std::string& output, Fill&& fill);

  std::string path_;
  TokenFileInfo info_;
  TokenFormat format_;
  std::vector<std::string> outputs_;
  std::int64_t id_bytes_;
  PartialFile ids_, doc_ends_;
  std::int64_t num_tokens_ = 0;
  std::vector<std::uint16_t> narrow_;
  std::vector<std::uint64_t> ends_;
  std::vector<std::pair<std::string, std::string>> renames_;  // temporary to final, in order
  bool finished_ = false, keep_ = false;
};

}  // namespace hysparse
