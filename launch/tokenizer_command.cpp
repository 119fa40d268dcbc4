// `hysparse tokenizer train`.
#include <filesystem>

#include "checkpoint/file.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "data/documents.h"
#include "data/json_text.h"
#include "data/tokenizer/train.h"
#include "launch/commands.h"

namespace hysparse {
namespace {

constexpr std::int64_t chunk_bytes = 64 << 20;
constexpr std::size_t piece_bytes = 1 << 20;

/// The texts of a chunk; `room` keeps those that are not spelled out in it.
std::vector<std::string_view> texts_of(const DocumentChunk& chunk, const std::vector<std::string>& files,
                                       const std::string& text_key, std::vector<std::string>& room) {
  const std::string_view bytes = chunk.bytes;
  std::vector<std::string_view> texts;
  if (!chunk.lines) {
    std::size_t begin = 0;
    for (const std::int64_t end : chunk.ends) {
      texts.push_back(bytes.substr(begin, static_cast<std::size_t>(end) - begin));
      begin = static_cast<std::size_t>(end);
    }
    return texts;
  }
  for (std::size_t begin = 0; begin < bytes.size();) {
    const std::size_t end = std::min(bytes.find('\n', begin), bytes.size());
    const std::string_view line = bytes.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    try {
      std::string scratch;
      const std::string_view text = json_text(line, text_key, scratch);
      room.emplace_back(text);
    } catch (const Error& e) {
      throw_error("{}: {}", files[static_cast<std::size_t>(chunk.file)], e.what());
    }
  }
  texts.assign(room.begin(), room.end());
  return texts;
}

WordCounts count_words(const TokenizerTrainOptions& options) {
  const std::vector<std::string> files = list_input_files(options.inputs);
  DocumentReaderOptions reading;
  reading.chunk_bytes = chunk_bytes;
  DocumentReader reader(files, reading);
  ThreadPool pool(options.workers);
  std::vector<WordCounts> counts(static_cast<std::size_t>(options.workers), WordCounts(options.style));
  for (DocumentChunk chunk; reader.next(chunk);) {
    std::vector<std::string> room;
    std::vector<std::string_view> pieces;
    for (const std::string_view text : texts_of(chunk, files, options.text_key, room)) {
      for (const std::string_view piece : cut_for_counting(text, piece_bytes)) pieces.push_back(piece);
    }
    pool.parallel_for(options.workers, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t worker = begin; worker < end; ++worker) {
        const auto stride = static_cast<std::size_t>(options.workers);
        for (auto i = static_cast<std::size_t>(worker); i < pieces.size(); i += stride) {
          counts[static_cast<std::size_t>(worker)].add(pieces[i]);
        }
      }
    });
  }
  for (std::size_t i = 1; i < counts.size(); ++i) counts[0].add(counts[i]);
  return std::move(counts[0]);
}

std::string train_tokenizer(const TokenizerTrainOptions& options) {
  const std::filesystem::path directory = std::filesystem::path(options.output).parent_path();
  if (!directory.empty() && !std::filesystem::is_directory(directory))
    throw_error("{}: there is no directory {}", options.output, directory.string());
  const NewTokenizer tokenizer = train_bpe(count_words(options), options.vocab_size);
  write_file_atomically(options.output, tokenizer_json_text(tokenizer));
  const std::int64_t tokens = std::ssize(tokenizer.vocab) + std::ssize(tokenizer.special);
  const std::string fewer =
      tokens < options.vocab_size ? fmt::format(" (of {}: no other pair comes twice)", options.vocab_size) : "";
  return fmt::format("{}: {} tokens{}, {} merges, style {}", options.output, tokens, fewer,
                     tokenizer.merges.size(), options.style);
}

}  // namespace

int run_tokenizer_train(Runtime& runtime, const TokenizerTrainOptions& options) {
  std::string report;
  runtime.agree([&] {
    if (runtime.rank() == 0) report = train_tokenizer(options);
  });
  if (runtime.rank() == 0) fmt::print("{}\n", report);
  return 0;
}

}  // namespace hysparse
