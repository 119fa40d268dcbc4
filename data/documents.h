/// Documents of text and JSONL files, in one fixed order.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace hysparse {

/// Files named by `inputs`: a file stands for itself, a directory for the regular files below it (links to
/// directories are not followed, names that begin with a dot are left out). Sorted by path, each once, so the
/// order of `inputs` does not matter. Throws Error for an input that is not there, cannot be listed, or is
/// neither.
std::vector<std::string> list_input_files(const std::vector<std::string>& inputs);

/// A document before decoding.
struct RawDocument {
  std::string bytes;      ///< the text; or, in a .jsonl file, the line that holds it
  std::string path;       ///< of its file
  std::int64_t line = 0;  ///< from 1 in a .jsonl file; 0: the whole file
};

/// Reads files one after another: a .jsonl file is one document a line (blank lines are left out), any other
/// file one document, byte by byte as it is. A whole file that holds a NUL byte is no text and is skipped.
class DocumentReader {
 public:
  explicit DocumentReader(std::vector<std::string> files) : files_(std::move(files)) {}

  /// The next document; false at the end. Throws Error for a file that cannot be read.
  bool next(RawDocument& document);
  /// Skipped so far for not being text.
  const std::vector<std::string>& skipped() const { return skipped_; }

 private:
  bool next_line(RawDocument& document);

  std::vector<std::string> files_;
  std::vector<std::string> skipped_;
  std::size_t next_file_ = 0;
  std::ifstream lines_;  // the .jsonl file being read
  std::int64_t line_ = 0;
};

/// The text of a document: its bytes, or the string under `text_key` of a line's JSON object. Throws Error,
/// naming file and line, when the line is not an object that has it.
std::string document_text(RawDocument document, const std::string& text_key);

}  // namespace hysparse
