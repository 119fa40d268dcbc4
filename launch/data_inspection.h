/// What `hysparse data inspect` finds out about a token dataset.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/token_dataset.h"
#include "data/tokenizer.h"

namespace hysparse {

struct DataInspection {
  struct Sample {
    std::int64_t document = 0;
    std::int64_t tokens = 0;
    std::vector<std::int32_t> ids;    ///< the first of them
    std::optional<std::string> text;  ///< of those ids, when the tokenizer is known
  };
  /// Documents of [2^(i-1), 2^i) tokens at i; of none at 0.
  using Histogram = std::array<std::int64_t, 65>;

  std::string path;
  std::string format;
  std::string type;  ///< of the stored ids
  TokenFileInfo info;
  std::int64_t tokens = 0, documents = 0;
  std::int64_t shortest = 0, longest = 0;  ///< documents, in tokens
  std::int64_t median = 0;                 ///< the document in the middle, from the histogram: 2^i - 1 at most
  Histogram lengths{};
  std::optional<std::int32_t> largest_id;  ///< when all ids were read
  std::string tokenizer_problem;           ///< why samples are not decoded
  std::vector<Sample> samples;
};

struct InspectConfig {
  std::string path;
  std::optional<std::string> tokenizer;  ///< instead of the one that the file names
  std::string eos;                       ///< the token that ends a document, for a tokenizer that does not say
  std::int64_t samples = 3;              ///< documents to show, spread evenly over the file
  std::int64_t sample_tokens = 64;       ///< of each
  bool check_ids = false;                ///< read every id
};

/// Throws Error when the file is no token dataset, or an id does not fit.
DataInspection inspect_data(const InspectConfig& config);

/// For people.
std::string inspection_text(const DataInspection& inspection);
/// One JSON object.
std::string inspection_json(const DataInspection& inspection);

}  // namespace hysparse
