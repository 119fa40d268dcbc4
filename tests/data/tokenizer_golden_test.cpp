// Ids, decoded text and merges as the tokenizers package has them: golden_tokenizers/make_golden.py.
#include <nlohmann/json.hpp>

#include "data/stream_decoder.h"
#include "data/tokenizer.h"
#include "data/tokenizer/train.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

using nlohmann::json;

json golden(const std::string& name) {
  return json::parse(read_file("golden_tokenizers/" + name + ".json"));
}

class GoldenTokenizer : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizer, IdsAndText) {
  const json file = golden(GetParam());
  const auto tokenizer = parse_tokenizer_json(file["tokenizer"].dump(), GetParam());
  ASSERT_GT(file["cases"].size(), 50u);
  for (const json& one : file["cases"]) {
    const auto text = one["text"].get<std::string>();
    const std::vector<std::int32_t> ids = tokenizer->encode(text);
    EXPECT_EQ(ids, one["ids"].get<std::vector<std::int32_t>>()) << one["text"];
    if (one["decoded"].is_null()) continue;
    StreamDecoder decoder(*tokenizer);
    std::string decoded;
    for (const std::int32_t id : ids) decoded += decoder.push(id);
    EXPECT_EQ(decoded + decoder.finish(), one["decoded"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTokenizer,
                         ::testing::Values("gpt2", "gpt2_prefix_space", "llama3", "qwen", "added_tokens",
                                           "gpt4o", "digits", "behaviors", "unknown", "missing_bytes"),
                         [](const auto& test) { return std::string(test.param); });

TEST(GoldenTraining, MergesAreThoseOfThePackage) {
  const json file = golden("training");
  for (const auto& [style, merges] : file["merges"].items()) {
    WordCounts words(style);
    words.add(file["text"].get<std::string>());
    const auto specials = std::ssize(special_tokens_of(style));
    const NewTokenizer trained = train_bpe(words, file["vocab_size"].get<std::int64_t>() + specials);
    EXPECT_EQ(json(trained.merges), merges) << style;
  }
}

}  // namespace
}  // namespace hysparse
