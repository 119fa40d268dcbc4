/// Documents of text and JSONL files, in one fixed order, read in chunks of a size that a thread works on at a
/// time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/byte_source.h"

namespace hysparse {

/// Files named by `inputs`: a file stands for itself, a directory for the regular files below it (links to
/// directories are not followed, names that begin with a dot are left out), "-" for standard input. Sorted by
/// path, each once, so the order of `inputs` does not matter. Throws Error for an input that is not there,
/// cannot be listed, or is neither.
std::vector<std::string> list_input_files(const std::vector<std::string>& inputs);

/// A place between two documents, or between two lines.
struct ReadPosition {
  std::int64_t file = 0;    ///< of the list; all before it are done
  std::int64_t offset = 0;  ///< in bytes of the file as unpacked
};

struct DocumentChunk {
  bool lines = false;              ///< JSONL: whole lines of one file; else whole files
  std::int64_t file = 0;           ///< of the list: the file of the lines, the first file
  std::string bytes;               ///< the lines, or the files one after another
  bool from_start = false;         ///< lines: the first of them is the first of the file
  std::vector<std::int64_t> ends;  ///< files: where each ends in `bytes`
  ReadPosition next;               ///< where reading goes on
  std::int64_t read_bytes = 0;     ///< of the files themselves so far, from the first of the list
};

struct DocumentReaderOptions {
  bool stdin_lines = true;  ///< standard input is JSONL, else one document
  std::int64_t chunk_bytes = 1 << 20;
  ReadPosition begin;
};

/// Reads files one after another. JSONL, one document a line: names that end in .jsonl or .jsonl.zst; any other
/// file is one document, byte by byte as it is (unpacked, when it ends in .zst).
class DocumentReader {
 public:
  explicit DocumentReader(std::vector<std::string> files, const DocumentReaderOptions& options = {});

  /// The next chunk, of about chunk_bytes or one document; false at the end. Throws Error for a file that
  /// cannot be read, for a line of more than 1 GiB and a file of more than 4 GiB (which would be one document).
  bool next(DocumentChunk& chunk);

 private:
  bool is_lines(const std::string& path) const;
  void next_lines(DocumentChunk& chunk);
  void next_files(DocumentChunk& chunk);
  void skip(std::int64_t bytes);
  void close_file();

  std::vector<std::string> files_;
  DocumentReaderOptions options_;
  ReadPosition at_;
  std::unique_ptr<ByteSource> source_;  // the JSONL file being read
  std::string carried_;                 // the beginning of a line, read with the lines before it
  std::int64_t done_bytes_ = 0;         // of the files before this one
};

}  // namespace hysparse
