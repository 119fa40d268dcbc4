#include "data/json_text.h"

#include <nlohmann/json.hpp>

#include "core/random.h"
#include "tests/data/temporary_directory.h"

namespace hysparse {
namespace {

std::string text_of(const std::string& line, const std::string& key = "text") {
  std::string scratch;
  return std::string(json_text(line, key, scratch));
}

TEST(JsonText, ValuesOfEveryKindAroundIt) {
  EXPECT_EQ(text_of(R"({"text": "a"})"), "a");
  EXPECT_EQ(text_of(" \t{ \"text\"\t:\r\"a\" } \r"), "a");
  EXPECT_EQ(
      text_of(R"({"a":1,"b":-0.5,"c":[1,[],{},"x",null],"d":{"e":true,"text":"no"},"f":false,"text":"yes"})"),
      "yes");
  EXPECT_EQ(text_of(R"({"text":"first","text":"last"})"), "last");
  EXPECT_EQ(text_of(R"({"n":1e5,"text":"slow"})"), "slow");
  EXPECT_EQ(text_of(R"({"t\u0065xt":"escaped key"})"), "escaped key");
  EXPECT_EQ(text_of("{\"text\":\"\"}"), "");
  EXPECT_EQ(text_of(R"({"text":"\"\\\/\b\f\n\r\t"})"), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(text_of(R"({"text":"h\u00e9 \ud83d\ude00\u0000!"})"),
            std::string("h\xC3\xA9 \xF0\x9F\x98\x80\0!", 10));
  EXPECT_EQ(text_of("{\"text\":\"\xE6\x97\xA5 \xF0\x9F\x98\x80\"}"), "\xE6\x97\xA5 \xF0\x9F\x98\x80");
  EXPECT_EQ(text_of("\xEF\xBB\xBF{\"text\":\"after a byte order mark\"}"), "after a byte order mark");
}

/// What nlohmann makes of the line; nothing when it refuses.
std::optional<std::string> reference(const std::string& line) {
  try {
    const auto json = nlohmann::json::parse(line);
    if (json.is_object() && json.contains("text") && json["text"].is_string()) return json["text"];
  } catch (const nlohmann::json::exception&) {
  }
  return std::nullopt;
}

void expect_same(const std::string& line) {
  std::optional<std::string> ours;
  try {
    ours = text_of(line);
  } catch (const Error&) {
  }
  EXPECT_EQ(ours, reference(line)) << line;
}

TEST(JsonText, DamagedLinesAreJudgedAsByTheReference) {
  const std::vector<std::string> lines = {
      R"({"id":12,"meta":{"u":"http:\/\/x","n":[0.25,-7,true]},"text":"one \"two\" \u00e9\ud83d\ude00 three, and more text"})",
      "{\"text\":\"\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80 plain plain plain plain\",\"z\":null}",
      R"({"text":"a","b":[[[[{"c":[]}]]]],"d":10.5})"};
  for (const std::string& line : lines) {
    expect_same(line);
    for (std::size_t at = 0; at < line.size(); ++at) {
      expect_same(line.substr(0, at));
      std::string without = line;
      without.erase(at, 1);
      expect_same(without);
      for (const char c : std::string("\"\\{}[],:0eE.-+u \x01\x1F\x7F\x80\xC0\xED\xF4\xFF\0", 28)) {
        std::string changed = line;
        changed[at] = c;
        expect_same(changed);
        changed.insert(at, 1, line[at]);
        expect_same(changed);
      }
    }
  }
}

TEST(JsonText, RandomBytesInAString) {
  const CounterRandom random(7, "json");
  for (std::uint64_t i = 0; i < 20000; ++i) {
    std::string inside;
    for (std::uint64_t j = 0; j < 1 + i % 9; ++j) inside += static_cast<char>(random.below(i * 16 + j, 256));
    expect_same("{\"text\":\"" + inside + "\"}");
    expect_same("{\"" + inside + "\":0,\"text\":\"x\"}");
  }
}

TEST(JsonText, DeepNesting) {
  for (const int depth : {10, 63, 64, 65, 1000, 100000}) {
    const auto n = static_cast<std::size_t>(depth);
    expect_same("{\"a\":" + std::string(n, '[') + std::string(n, ']') + ",\"text\":\"x\"}");
  }
}

}  // namespace
}  // namespace hysparse
