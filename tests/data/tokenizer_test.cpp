#include "data/tokenizer.h"

#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

TEST(ByteTokenizer, EveryByteRoundTrips) {
  const auto tokenizer = make_tokenizer("byte");
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  const std::vector<std::int32_t> ids = tokenizer->encode(all);
  ASSERT_EQ(ids.size(), 256u);
  for (int b = 0; b < 256; ++b) EXPECT_EQ(ids[static_cast<std::size_t>(b)], b);
  EXPECT_EQ(tokenizer->decode(ids), all);
}

TEST(ByteTokenizer, VocabularyIsPaddedToAMultipleOf64) {
  const auto tokenizer = make_tokenizer("byte");
  EXPECT_EQ(tokenizer->vocab_size(), 320);
  EXPECT_EQ(tokenizer->eos_id(), 256);
  EXPECT_EQ(tokenizer->name(), "byte");
  EXPECT_EQ(tokenizer->hash().size(), 16u);
  EXPECT_EQ(tokenizer->hash(), make_tokenizer("byte")->hash());
}

TEST(ByteTokenizer, SpecialTokensAreDecodedButNeverEncoded) {
  const auto tokenizer = make_tokenizer("byte");
  EXPECT_EQ(tokenizer->decode(256), "<|endoftext|>");
  EXPECT_EQ(tokenizer->decode(319), "");
  const std::vector<std::int32_t> ids = tokenizer->encode("<|endoftext|>");
  EXPECT_EQ(ids.size(), 13u);
  for (const std::int32_t id : ids) EXPECT_LT(id, 256);
}

TEST(ByteTokenizer, EncodeAppends) {
  const auto tokenizer = make_tokenizer("byte");
  std::vector<std::int32_t> ids = {7};
  tokenizer->encode("ab", ids);
  tokenizer->encode("", ids);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{7, 'a', 'b'}));
}

TEST(ByteTokenizer, RefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = make_tokenizer("byte");
  EXPECT_ERROR(tokenizer->decode(320), "320", "0..319");
  EXPECT_ERROR(tokenizer->decode(-1), "-1", "0..319");
}

TEST(MakeTokenizer, RefusesWhatIsNotThere) {
  EXPECT_ERROR(make_tokenizer("some/tokenizer.json"), "some/tokenizer.json", "available: byte");
  EXPECT_ERROR(make_tokenizer("bytes"), "bytes", "available: byte");
  EXPECT_ERROR(make_tokenizer(""), "tokenizer", "available: byte");
}

}  // namespace
}  // namespace hysparse
