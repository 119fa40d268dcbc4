/// The work of `hysparse prepare`: text and JSONL files into token datasets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/token_dataset.h"

namespace hysparse {

struct PrepareConfig {
  /// Files and directories: text (one document a file), .jsonl (one a line), either with .zst behind it; "-"
  /// for standard input.
  std::vector<std::string> inputs;
  std::string tokenizer = "byte";
  std::string eos;                          ///< the token that ends a document; "": what the tokenizer says
  std::string output;                       ///< token dataset
  std::optional<TokenFormat> format;        ///< of the outputs; absent: what the name says
  std::string text_key = "text";            ///< of JSONL objects
  bool stdin_lines = true;                  ///< standard input is JSONL, else one document
  bool skip_bad_lines = false;              ///< else the first one is an Error
  int workers = 1;                          ///< threads that encode
  std::optional<std::string> valid_output;  ///< where held-out documents go; absent: none are held out
  double valid_fraction = 0.05;             ///< chance of a document to be held out, in (0, 1)
  std::string command;                      ///< the command line as typed, kept in the files
  double seconds_between_saves = 10;        ///< of the state that a killed run goes on from
};

struct PrepareReport {
  struct Part {
    std::string path;
    std::int64_t documents = 0;
    std::int64_t bytes = 0;   ///< of text, before encoding
    std::int64_t tokens = 0;  ///< one eos a document included
  };
  static constexpr std::size_t most_bad_lines = 10;  ///< that are named

  Part train;
  std::optional<Part> valid;
  std::int64_t files = 0;
  std::int64_t empty_documents = 0;          ///< left out
  std::int64_t bad_lines = 0;                ///< left out
  std::vector<std::string> first_bad_lines;  ///< "file:line: what is wrong"
  std::int64_t not_text = 0;                 ///< files left out: they hold NUL bytes
  std::string first_not_text;

  /// A few lines for people, without a newline at the end.
  std::string str() const;
};

/// Encodes every document, in the order of list_input_files(), each followed by the tokenizer's eos. Whether
/// document i of that order is held out depends on i and valid_fraction alone. The result does not depend on
/// `workers`. Outputs replace what was there only when all of them are complete. A run that was killed, or
/// ended by a full disk, leaves its temporary files: the next one with the same inputs (names, sizes, times)
/// and options goes on from there, to the same bytes; otherwise it starts anew. Input from "-" always does.
/// `show_progress` draws on standard output. Throws Error for bad input, naming file and line, for no text at
/// all, and when outputs cannot be written.
PrepareReport prepare(const PrepareConfig& config, bool show_progress = false);

}  // namespace hysparse
