/// The work of `hysparse prepare`: text and JSONL files into token datasets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hysparse {

struct PrepareConfig {
  std::vector<std::string> inputs;  ///< files and directories: text (one document a file), .jsonl (one a line)
  std::string tokenizer = "byte";
  std::string output;                       ///< HDF5 token dataset
  std::string text_key = "text";            ///< of JSONL objects
  int workers = 1;                          ///< threads
  std::optional<std::string> valid_output;  ///< where held-out documents go; absent: none are held out
  double valid_fraction = 0.05;             ///< chance of a document to be held out, in (0, 1)
  std::string command;                      ///< the command line as typed, kept in the files
};

struct PrepareReport {
  struct Part {
    std::string path;
    std::int64_t documents = 0;
    std::int64_t bytes = 0;   ///< of text, before encoding
    std::int64_t tokens = 0;  ///< one eos a document included
  };
  Part train;
  std::optional<Part> valid;
  std::int64_t files = 0;
  std::int64_t empty_documents = 0;   ///< left out
  std::vector<std::string> not_text;  ///< files left out: they hold NUL bytes

  /// A few lines for people, without a newline at the end.
  std::string str() const;
};

/// Encodes every document, in the order of list_input_files(), each followed by the tokenizer's eos. Whether
/// document i of that order is held out depends on i and valid_fraction alone. The result does not depend on
/// `workers`. Outputs replace what was there only when all of them are complete. Throws Error for bad input,
/// naming file and line, for no text at all, and when outputs cannot be written.
PrepareReport prepare(const PrepareConfig& config);

}  // namespace hysparse
