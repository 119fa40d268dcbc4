// tokenizer.json files: what is read, what is refused and how.
#include "data/tokenizer/tokenizer_json.h"

#include <thread>

#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "data/tokenizer/byte_alphabet.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

/// All bytes, "he", "ll", "hell", and <|endoftext|> after them.
json small() {
  json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[token_of_bytes(std::string(1, static_cast<char>(byte)))] = byte;
  vocab["he"] = 256;
  vocab["ll"] = 257;
  vocab["hell"] = 258;
  return {{"added_tokens", {{{"id", 259}, {"content", "<|endoftext|>"}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"h e", "l l", {"he", "ll"}}}}}};
}

std::unique_ptr<Tokenizer> parse(const json& file, const std::string& eos = "") {
  return parse_tokenizer_json(file.dump(), "t.json", eos);
}

/// `small` with the value at a JSON pointer replaced.
json with(const std::string& at, json value) {
  json file = small();
  file[json::json_pointer(at)] = std::move(value);
  return file;
}

TEST(TokenizerJson, Encodes) {
  const auto tokenizer = parse(small());
  EXPECT_EQ(tokenizer->encode("hello"), (Ids{258, 'o'}));
  EXPECT_EQ(tokenizer->encode("ahello<|endoftext|>he"), (Ids{'a', 258, 'o', 259, 256}));
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_EQ(tokenizer->eos_id(), 259);
  EXPECT_EQ(tokenizer->decode(258), "hell");
  EXPECT_EQ(tokenizer->decode(259), "<|endoftext|>");
  EXPECT_EQ(tokenizer->name(), "t.json");
  ASSERT_EQ(tokenizer->special_tokens().size(), 1u);
  EXPECT_EQ(tokenizer->special_tokens()[0].id, 259);
  EXPECT_ERROR(tokenizer->decode(260), "260", "0..259");
  EXPECT_ERROR(tokenizer->decode(-1), "-1", "0..259");
}

TEST(TokenizerJson, AnyBytesRoundTrip) {
  const auto tokenizer = parse(small());
  std::string all;
  for (int i = 0; i < 3; ++i) {
    for (int byte = 0; byte < 256; ++byte)
      all += std::string(static_cast<std::size_t>(i) + 1, static_cast<char>(byte));
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), all);
  const auto nfc = parse(with("/normalizer", {{"type", "NFC"}}));
  EXPECT_EQ(nfc->decode(nfc->encode(all)), all);
}

TEST(TokenizerJson, TravelsWithItsHash) {
  const auto tokenizer = parse(small());
  EXPECT_EQ(parse_tokenizer_json(tokenizer->json(), "again")->hash(), tokenizer->hash());
  EXPECT_NE(parse(with("/normalizer", {{"type", "NFC"}}))->hash(), tokenizer->hash());
}

TEST(TokenizerJson, OfTheByteTokenizerHasItsIds) {
  const auto bytes = make_tokenizer("byte");
  const auto tokenizer = parse_tokenizer_json(bytes->json(), "byte.json");
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  for (const std::string& text : {all, std::string("it's <|endoftext|>  \n x")}) {
    EXPECT_EQ(tokenizer->encode(text), bytes->encode(text));
  }
  EXPECT_EQ(tokenizer->eos_id(), bytes->eos_id());
}

TEST(TokenizerJson, LongWordsMergeAsShortOnes) {
  const auto tokenizer = parse(small());
  std::string text;
  Ids expected;
  for (int i = 0; i < 5000; ++i) {
    text += i % 3 == 0 ? "hell" : i % 3 == 1 ? "lll" : "he";
    const Ids part = i % 3 == 0 ? Ids{258} : i % 3 == 1 ? Ids{257, 'l'} : Ids{256};
    expected.insert(expected.end(), part.begin(), part.end());
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  Ids short_words;
  for (const char* word : {"hell", "lll"}) {
    for (const std::int32_t id : tokenizer->encode(word)) short_words.push_back(id);
  }
  EXPECT_EQ(short_words, Ids(expected.begin(), expected.begin() + 3));
  EXPECT_EQ(tokenizer->encode(std::string(200, 'l')), Ids(100, 257));
}

TEST(TokenizerJson, ManyThreadsEncodeAtATime) {
  const auto tokenizer = parse(small());
  std::string text;
  for (int i = 0; i < 3000; ++i) text += fmt::format("hello {} hell\n", i);
  const Ids expected = tokenizer->encode(text);
  std::vector<Ids> found(4);
  std::vector<std::thread> threads;
  for (Ids& ids : found) threads.emplace_back([&] { tokenizer->encode(text, ids); });
  for (std::thread& thread : threads) thread.join();
  for (const Ids& ids : found) EXPECT_EQ(ids, expected);
}

TEST(TokenizerJson, EndOfDocuments) {
  TemporaryDirectory directory;
  json file = small();
  file["added_tokens"][0]["content"] = "<stop>";
  write_file(directory / "tokenizer.json", file.dump());
  EXPECT_ERROR(make_tokenizer(directory.path()), "which token ends a document", "--eos TOKEN");
  EXPECT_EQ(make_tokenizer(directory.path(), "<stop>")->eos_id(), 259);
  EXPECT_ERROR(make_tokenizer(directory.path(), "<end>"), "tokenizer", "<end>");
  write_file(directory / "config.json", R"({"eos_token_id": [257, 1]})");
  EXPECT_EQ(make_tokenizer(directory.path())->eos_id(), 257);
  write_file(directory / "config.json", R"({"eos_token_id": 9000})");
  EXPECT_ERROR(make_tokenizer(directory.path()), "tokenizer", "9000");
  write_file(directory / "tokenizer_config.json", R"({"eos_token": {"content": "<stop>"}})");
  EXPECT_EQ(make_tokenizer(directory / "tokenizer.json")->eos_id(), 259);
  write_file(directory / "tokenizer_config.json", "{");
  EXPECT_ERROR(make_tokenizer(directory.path()), "tokenizer_config.json", "JSON");
}

TEST(TokenizerJson, RefusesOtherKinds) {
  EXPECT_ERROR(parse(with("/model/type", "WordPiece")), "WordPiece", "byte-level BPE");
  EXPECT_ERROR(parse(with("/model/type", "Unigram")), "Unigram", "byte-level BPE");
  EXPECT_ERROR(parse(with("/pre_tokenizer", {{"type", "Metaspace"}})), "tokenizer", "Metaspace");
  EXPECT_ERROR(parse(with("/pre_tokenizer", nullptr)), "ByteLevel", "SentencePiece");
  EXPECT_ERROR(parse(with("/normalizer", {{"type", "Lowercase"}})), "Lowercase", "NFC");
  EXPECT_ERROR(parse(with("/decoder", {{"type", "WordPiece"}})), "WordPiece", "ByteLevel");
  EXPECT_ERROR(parse(with("/model/dropout", 0.1)), "tokenizer", "dropout");
  EXPECT_ERROR(parse(with("/model/end_of_word_suffix", "</w>")), "tokenizer", "end_of_word_suffix");
  EXPECT_ERROR(parse(with("/model/unk_token", "[UNK]")), "tokenizer", "unk_token");
  const auto pattern = [](const char* text) {
    return with("/pre_tokenizer",
                {{"type", "Sequence"},
                 {"pretokenizers",
                  {{{"type", "Split"}, {"pattern", {{"Regex", text}}}, {"behavior", "Isolated"}},
                   {{"type", "ByteLevel"}, {"use_regex", false}}}}});
  };
  for (const char* text :
       {"(", "[a[b]]", "[a&&b]", "\\p{N}{1,3}+", "\\h", "(?m:.)", "[a", "a\\", "\\p{Nonsense}"}) {
    EXPECT_ERROR(parse(pattern(text)), "the pattern", "not supported");
  }
}

TEST(TokenizerJson, RefusesDamage) {
  const std::string good = small().dump();
  EXPECT_ERROR(parse_tokenizer_json("", "t.json"), "t.json", "JSON");
  EXPECT_ERROR(parse_tokenizer_json(good.substr(0, good.size() / 2), "t.json"), "t.json", "JSON");
  EXPECT_ERROR(parse_tokenizer_json("[]", "t.json"), "tokenizer", "no \"model\"");
  EXPECT_ERROR(parse_tokenizer_json(std::string(100'000, '['), "t.json"), "t.json", "nested deeper");
  EXPECT_ERROR(parse_tokenizer_json(R"({"model": 1, "model": 2})", "t.json"), "t.json",
               "'model' appears twice");
  EXPECT_ERROR(parse(with("/model/vocab", json::object())), "tokenizer", "vocabulary");
  EXPECT_ERROR(parse(with("/model/vocab", json::array({1}))), "tokenizer", "vocabulary");
  EXPECT_ERROR(parse(with("/model/vocab/he", 257)), "tokenizer", "two tokens have the id 257");
  for (const json& bad : {json(-1), json(1.5), json("7"), json(1'000'000'000'000), json(1 << 24), json()}) {
    EXPECT_ERROR(parse(with("/model/vocab/he", bad)), "the id of 'he'", "integer");
  }
  EXPECT_ERROR(parse(with("/model/merges/0", "h q")), "merge 0", "'hq'");
  EXPECT_ERROR(parse(with("/model/merges/0", "he")), "merge 0", "two tokens");
  EXPECT_ERROR(parse(with("/model/merges/0", "h e l")), "merge 0", "two tokens");
  EXPECT_ERROR(parse(with("/model/merges/0", {"h"})), "tokenizer", "merge 0");
  EXPECT_ERROR(parse(with("/model/merges", "x")), "tokenizer", "merges");
  EXPECT_ERROR(parse(with("/added_tokens", 7)), "tokenizer", "added_tokens");
  EXPECT_ERROR(parse(with("/added_tokens/0/id", 300)), "300", "259 is due");
  EXPECT_ERROR(parse(with("/added_tokens/0/content", "he")), "'he'", "256 is due");
  EXPECT_ERROR(parse(with("/added_tokens/0/content", "")), "tokenizer", "0 bytes");
  EXPECT_ERROR(parse(with("/added_tokens/0/content", std::string(5000, 'x'))), "tokenizer", "5000 bytes");
  EXPECT_ERROR(parse(with("/added_tokens/0/lstrip", 1)), "tokenizer", "lstrip");
  EXPECT_ERROR(parse(with("/added_tokens/1", small()["added_tokens"][0])), "tokenizer", "appears twice");
  EXPECT_ERROR(parse(with("/pre_tokenizer", {{"type", "Sequence"}})), "tokenizer", "pretokenizers");
}

}  // namespace
}  // namespace hysparse
