// Lines of JSONL: the string of each, which the general JSON parser must find as well, and the chunk encoded.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "data/document_encoder.h"
#include "data/json_text.h"
#include "data/tokenizer.h"
#include "tests/fuzz/support.h"
#include "tests/fuzz/targets.h"

namespace hysparse::fuzz {
namespace {

/// What the line says by nlohmann/json; nothing when it is no object with that string.
std::optional<std::string> by_the_book(std::string_view line) {
  const nlohmann::json value = nlohmann::json::parse(line, nullptr, false);
  if (!value.is_object()) return std::nullopt;
  const auto entry = value.find("text");
  if (entry == value.end() || !entry->is_string()) return std::nullopt;
  return entry->get<std::string>();
}

void check_line(std::string_view line) {
  std::optional<std::string> found;
  std::string scratch;
  accept_or_refuse([&] { found = std::string(json_text(line, "text", scratch)); });
  HYSPARSE_CHECK(found == by_the_book(line), "'{}': {}, expected {}", line, found.value_or("(refused)"),
                 by_the_book(line).value_or("(refused)"));
}

}  // namespace

void jsonl(std::string_view input) {
  for (std::string_view rest = input; !rest.empty();) {
    const std::size_t end = rest.find('\n');
    check_line(rest.substr(0, end));
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  static const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer("byte");
  accept_or_refuse([&] {
    DocumentChunk chunk;
    chunk.lines = chunk.from_start = true;
    chunk.bytes = input;
    std::vector<std::int32_t> room;
    const EncodedChunk encoded = encode_chunk(chunk, *tokenizer, "text", 2, room);
    std::int64_t tokens = 0;
    for (const std::int64_t length : encoded.lengths) tokens += length;
    HYSPARSE_CHECK(tokens * 2 == std::ssize(encoded.ids), "{} tokens in {} bytes", tokens, encoded.ids.size());
    HYSPARSE_CHECK(encoded.line_count >= std::ssize(encoded.lengths) + std::ssize(encoded.bad_lines),
                   "{} lines", encoded.line_count);
  });
}

}  // namespace hysparse::fuzz
