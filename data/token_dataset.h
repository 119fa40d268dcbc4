/// Token datasets of every format: tokens with the bounds of their documents, mapped into memory.
///
///   hdf5       ours (data/token_file.h)
///   megatron   Megatron-LM: NAME.idx beside NAME.bin
///   datatrove  NAME.ds beside NAME.ds.index
///   llmc       llm.c: one .bin with a header
///   raw        little-endian int32 in a .bin: one document, for evaluation
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "data/formats/token_array.h"
#include "data/token_stream.h"

namespace hysparse {

enum class TokenFormat { hdf5, megatron, datatrove, llmc, raw };

/// "hdf5", "megatron", "datatrove", "llmc", "raw".
const char* token_format_name(TokenFormat format);

struct TokenFileInfo {
  std::string tokenizer;        ///< Tokenizer::name(); "" when the file does not say
  std::string tokenizer_hash;   ///< Tokenizer::hash(); "" when the file does not say
  std::int64_t vocab_size = 0;  ///< 0 when the file does not say
  std::int32_t eos_id = 0;      ///< -1 when the file does not say
  std::string command;          ///< that made the file; "" when the file does not say
};

/// Every method may be called from several threads at once.
class TokenDataset : public TokenStream {
 public:
  virtual TokenFormat format() const = 0;
  virtual const TokenFileInfo& info() const = 0;
  /// How the ids are stored.
  virtual TokenType type() const = 0;
  virtual std::int64_t num_documents() const = 0;
  /// Document 0 <= i < num_documents() is tokens [document_begin(i), document_end(i)). Ends never decrease and
  /// the last is num_tokens(), so the documents cover the tokens without a gap. Foreign files may hold
  /// documents of no tokens (hdf5 ones never do).
  virtual std::int64_t document_end(std::int64_t i) const = 0;
  std::int64_t document_begin(std::int64_t i) const { return i == 0 ? 0 : document_end(i - 1); }
  /// The document that holds the token 0 <= token < num_tokens(): a binary search.
  std::int64_t document_of(std::int64_t token) const;
};

struct OpenTokensOptions {
  /// For files that do not say their vocabulary: read() refuses ids that are not below it. 0: any id >= 0.
  std::int64_t vocab_size = 0;
};

/// Opens a dataset of any format, recognised by content and name: `path` is the file (either of two), for
/// megatron also the prefix without .idx and .bin. All but the ids is checked now, ids as they are read. A file
/// that is there but holds no tokens opens with num_tokens() = 0 (hdf5 and raw: Error). Throws Error, naming
/// the file and what is wrong: missing, of no known format, truncated, lengths or offsets that do not fit the
/// file.
std::unique_ptr<TokenDataset> open_token_dataset(const std::string& path,
                                                 const OpenTokensOptions& options = {});

}  // namespace hysparse
