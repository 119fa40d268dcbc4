/// Documents to token ids: one thread reads ahead, several encode, and the caller takes the results in the
/// order of the documents, so that reading, encoding and writing go on at the same time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "data/documents.h"
#include "data/tokenizer.h"

namespace hysparse {

struct EncodedChunk {
  struct BadLine {
    std::int64_t line;  ///< within the chunk, from 1
    std::string problem;
  };
  std::vector<std::byte> ids;            ///< of all documents, eos after each, in id_bytes each
  std::vector<std::int64_t> lengths;     ///< tokens of each document, eos included
  std::vector<std::int64_t> text_bytes;  ///< of each document before encoding
  std::int64_t empty_documents = 0;      ///< left out
  std::vector<BadLine> bad_lines;        ///< left out
  std::vector<std::int64_t> not_text;    ///< files left out: they hold NUL bytes (an index into the list)
  // Of the DocumentChunk it came from:
  bool lines = false, from_start = false;
  std::int64_t file = 0;
  std::int64_t line_count = 0;
  std::int64_t read_bytes = 0;
  ReadPosition next;
};

/// Encodes one chunk. `ids` is room for one document.
EncodedChunk encode_chunk(const DocumentChunk& chunk, const Tokenizer& tokenizer, const std::string& text_key,
                          std::int64_t id_bytes, std::vector<std::int32_t>& ids);

class DocumentEncoder {
 public:
  /// `tokenizer` must outlive the encoder. `id_bytes`: 2 or 4. `workers` threads encode.
  DocumentEncoder(DocumentReader reader, const Tokenizer& tokenizer, std::string text_key,
                  std::int64_t id_bytes, int workers);
  ~DocumentEncoder();
  DocumentEncoder(const DocumentEncoder&) = delete;
  DocumentEncoder& operator=(const DocumentEncoder&) = delete;

  /// The next chunk; false at the end. Throws what reading or encoding it threw.
  bool next(EncodedChunk& chunk);

 private:
  struct Job {
    DocumentChunk raw;
    EncodedChunk encoded;
    std::int64_t bytes = 0;
    std::exception_ptr problem;
    bool done = false, last = false;
  };
  void read();
  void work();

  DocumentReader reader_;
  const Tokenizer& tokenizer_;
  const std::string text_key_;
  const std::int64_t id_bytes_;
  const std::size_t most_jobs_;
  const std::int64_t most_bytes_;  // of jobs at a time; one is always let in

  std::mutex mutex_;
  std::condition_variable room_, to_do_, done_;
  std::deque<std::shared_ptr<Job>> waiting_;   // to be encoded
  std::deque<std::shared_ptr<Job>> in_order_;  // to be taken
  std::int64_t bytes_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace hysparse
