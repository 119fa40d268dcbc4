#include "data/tokenizer.h"
#include "data/tokenizer/nfc.h"
#include "data/tokenizer/train.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i)
    text += fmt::format("line {} of it's text, caf\u00e9\n{}\n", i, i % 7 == 0 ? "\n" : "x");
  return text;
}

TEST(TrainBpe, MergesTheMostFrequentPairFirst) {
  WordCounts words("gpt2");
  words.add("ab ab ab cd cd");
  const NewTokenizer trained = train_bpe(words, 256 + 4 + 1);
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"a", "b"}, {"c", "d"}, {"\u0120", "ab"}, {"\u0120", "cd"}};
  EXPECT_EQ(trained.merges, expected);
  EXPECT_EQ(trained.vocab.size(), 260u);
}

TEST(TrainBpe, EveryStyleLoadsAndRoundTrips) {
  for (const char* style : {"gpt2", "llama3", "qwen"}) {
    WordCounts words(style);
    words.add(lines(200));
    const NewTokenizer trained = train_bpe(words, 270);
    const auto tokenizer = parse_tokenizer_json(tokenizer_json_text(trained), style);
    EXPECT_EQ(tokenizer->vocab_size(), 270) << style;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(lines(9))), lines(9));
    EXPECT_LT(tokenizer->encode(lines(200)).size(), lines(200).size() * 3 / 4);
    EXPECT_EQ(tokenizer->decode(tokenizer->eos_id()), trained.special[0]);
  }
}

TEST(TrainBpe, CutsChangeNoWord) {
  for (const char* style : {"gpt2", "llama3", "qwen"}) {
    WordCounts whole(style), pieces(style);
    const std::string text = lines(500);
    whole.add(text);
    std::string again;
    const auto cut = cut_for_counting(text, 1000);
    EXPECT_GT(cut.size(), 8u);
    for (const std::string_view piece : cut) {
      WordCounts one(style);
      one.add(piece);
      pieces.add(one);
      again += piece;
    }
    EXPECT_EQ(again, text);
    EXPECT_EQ(pieces.sorted(), whole.sorted()) << style;
  }
}

TEST(TrainBpe, RefusesAVocabularyWithoutRoomForBytes) {
  EXPECT_ERROR(train_bpe(WordCounts("qwen"), 258), "258", "3 special tokens");
}

TEST(Nfc, LeavesWhatIsComposedWhereItIs) {
  std::string room;
  const std::string_view text = "plain, caf\u00e9, \uAC00 \u65e5\u672c\xff";
  EXPECT_EQ(normalize_nfc(text, room).data(), text.data());
}

TEST(Nfc, ComposesAndReorders) {
  std::string room;
  EXPECT_EQ(normalize_nfc("e\u0301", room), "\u00e9");
  EXPECT_EQ(normalize_nfc("xs\u0307\u0323y", room), "x\u1e69y");
  EXPECT_EQ(normalize_nfc("\u1112\u1161\u11ab\u212b\u0958", room), "\ud55c\u00c5\u0915\u093c");
  EXPECT_EQ(normalize_nfc("\xff\u0301\u0344", room), "\xff\u0301\u0308\u0301");
}

}  // namespace
}  // namespace hysparse
