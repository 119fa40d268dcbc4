#include "data/stream_decoder.h"

#include "core/random.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

const std::string replacement = "\xEF\xBF\xBD";

/// Everything that comes out when the bytes are pushed one by one.
std::string decode_all(const std::string& bytes) {
  const auto tokenizer = make_tokenizer("byte");
  StreamDecoder decoder(*tokenizer);
  std::string text;
  for (const char c : bytes) text += decoder.push(static_cast<unsigned char>(c));
  return text + decoder.finish();
}

TEST(StreamDecoder, HoldsBackIncompleteSequences) {
  const auto tokenizer = make_tokenizer("byte");
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push('x'), "x");
  EXPECT_EQ(decoder.push(0xF0), "");  // U+1F600 in four bytes
  EXPECT_EQ(decoder.push(0x9F), "");
  EXPECT_EQ(decoder.push(0x98), "");
  EXPECT_EQ(decoder.push(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(decoder.finish(), "");
  EXPECT_EQ(decoder.push(0xC3), "");
  EXPECT_EQ(decoder.finish(), replacement);
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, ValidTextIsUnchanged) {
  const std::string text =
      "a\xC2\x80 \xC3\xA9 \xE0\xA0\x80 \xED\x9F\xBF \xEE\x80\x80 \xEF\xBF\xBF \xF0\x90\x80\x80 "
      "\xF4\x8F\xBF\xBF\n";
  EXPECT_EQ(decode_all(text), text);
}

TEST(StreamDecoder, ReplacesEachMaximalInvalidPart) {
  EXPECT_EQ(decode_all("a\x80z"), "a" + replacement + "z");                        // continuation alone
  EXPECT_EQ(decode_all("\xC0\xAF"), replacement + replacement);                    // overlong
  EXPECT_EQ(decode_all("\xE0\x9F\xBF"), replacement + replacement + replacement);  // overlong
  EXPECT_EQ(decode_all("\xED\xA0\x80"), replacement + replacement + replacement);  // surrogate
  EXPECT_EQ(decode_all("\xF4\x90\x80\x80"), replacement + replacement + replacement + replacement);
  EXPECT_EQ(decode_all("\xFF"), replacement);
  EXPECT_EQ(decode_all("\xE2\x82z"), replacement + "z");  // cut short: one part
  EXPECT_EQ(decode_all("\xF0\x9F\x98\xC3\xA9"), replacement + "\xC3\xA9");
  EXPECT_EQ(decode_all("\xE2\x82"), replacement);  // at the end
}

TEST(StreamDecoder, OutputIsAlwaysValidAndStable) {
  const CounterRandom random(5, "stream decoder");
  for (std::uint64_t round = 0; round < 200; ++round) {
    std::string bytes;
    for (std::uint64_t i = 0; i < 64; ++i) bytes += static_cast<char>(random.bits(round * 64 + i));
    const std::string text = decode_all(bytes);
    EXPECT_EQ(decode_all(text), text);  // nothing left to replace
  }
}

}  // namespace
}  // namespace hysparse
