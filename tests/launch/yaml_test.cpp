// Text that is no config must be refused with a place, and never hang or crash.
#include <random>

#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/config.h"
#include "launch/yaml_reader.h"
#include "launch/yaml_values.h"

namespace hysparse {
namespace {

std::vector<std::string> problems_of(const std::string& text) {
  std::vector<std::string> problems;
  read_yaml(text, "x.yaml", problems);
  return problems;
}

std::string first_problem(const std::string& text) {
  const auto problems = problems_of(text);
  return problems.empty() ? "" : problems[0];
}

TEST(Yaml, PlacesCountFromOne) {
  std::vector<std::string> problems;
  const YamlPointer root = read_yaml("a: 1\n\nb:\n  c: x\n", "x.yaml", problems);
  ASSERT_TRUE(root && problems.empty());
  EXPECT_EQ(root->find("a")->where, "x.yaml:1");
  EXPECT_EQ(root->find("b")->value->find("c")->where, "x.yaml:4");
}

TEST(Yaml, QuotesAreKept) {
  std::vector<std::string> problems;
  const YamlPointer root = read_yaml("a: '1'\nb: 1\nc: ~\nd: \"null\"\n", "x.yaml", problems);
  EXPECT_TRUE(root->find("a")->value->quoted);
  EXPECT_FALSE(root->find("b")->value->quoted);
  EXPECT_EQ(root->find("c")->value->kind, YamlNode::Kind::null);
  EXPECT_EQ(root->find("d")->value->kind, YamlNode::Kind::scalar);
}

TEST(Yaml, RefusesWhatIsNoConfig) {
  EXPECT_EQ(first_problem("[1, 2]"), "x.yaml:1: a config is sections of keys, not a list");
  EXPECT_EQ(first_problem("word"), "x.yaml:1: a config is sections of keys, not word");
  EXPECT_EQ(first_problem("a: 1\nb: \xff\n"), "x.yaml:2: not UTF-8 text (byte 0xff)");
  EXPECT_EQ(first_problem(std::string("a: \0", 4)), "x.yaml:1: not UTF-8 text (byte 0x00)");
  EXPECT_EQ(first_problem("a: \xc0\x80"), "x.yaml:1: not UTF-8 text (byte 0xc0)");
  EXPECT_EQ(first_problem("a: 1\n---\nb: 2\n"), "x.yaml: a second document; a config is one");
  EXPECT_EQ(first_problem("a: !!int 3\n"), "x.yaml:1: the tag tag:yaml.org,2002:int has no meaning here");
  EXPECT_EQ(first_problem("? [a]\n: b\n"), "x.yaml:1: a key must be a name, not a list");
  EXPECT_EQ(first_problem("a: {b: 1\n").rfind("x.yaml:2: not YAML: ", 0), 0u);
  EXPECT_EQ(first_problem("a: *b\n").rfind("x.yaml:1: not YAML: ", 0), 0u);
  EXPECT_EQ(problems_of("a: 1\na: 2\na: 3\n").size(), 2u);
}

TEST(Yaml, AliasesStandForSingleValues) {
  std::vector<std::string> problems;
  const YamlPointer root = read_yaml("a: &x 64\nb: *x\n", "x.yaml", problems);
  ASSERT_TRUE(root && problems.empty());
  EXPECT_EQ(root->find("b")->value->text, "64");
  EXPECT_NE(first_problem("a: &x [1]\nb: *x\n").find("single value"), std::string::npos);
  EXPECT_NE(first_problem("a: &x {b: *x}\n").find("single value"), std::string::npos);
}

TEST(Yaml, BombsEndSoon) {
  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 60; ++i) bomb += fmt::format("a{}: &a{} [*a{}, *a{}]\n", i, i, i - 1, i - 1);
  EXPECT_FALSE(problems_of(bomb).empty());
  const auto repeated = [](const std::string& text, int times) {
    std::string result;
    for (int i = 0; i < times; ++i) result += text;
    return result;
  };
  for (const char* part : {"[", "{a: ", "- ", "? ", "a: ", "&a ", "!", "a\n ", "\"", "|\n", "'", "*", "%",
                           "---\n", "a: [b, c]\n"}) {
    problems_of(repeated(part, 20000));
  }
  EXPECT_NE(first_problem("a: " + repeated("[", 5000)).find("nested more than"), std::string::npos);
  EXPECT_NE(first_problem(repeated("a: 1\n", 100000)).find("a config has at most"), std::string::npos);
  EXPECT_LE(problems_of(repeated("a: 1\n", 1000)).size(), 101u);
}

TEST(Yaml, RandomBytesNeverCrash) {
  constexpr std::uint64_t seed = 20240607;
  std::mt19937_64 random(seed);
  const std::string alphabet = "ab:- \n\t[]{}&*!|>'\"%@`#,?~01.=\\";
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    const std::size_t length = random() % 60;
    for (std::size_t k = 0; k < length; ++k) text.push_back(alphabet[random() % alphabet.size()]);
    EXPECT_THROW(config_from_text(text, "x.yaml", std::nullopt), Error)
        << text;  // the required keys are missing at least
  }
}

TEST(YamlValues, NumbersRoundTrip) {
  for (const double value : {0.0, 1.0, 0.1, 1e-10, 3.0e-3, 640000.0, 1e300, 5e-324, 123456789.123}) {
    EXPECT_EQ(parse_number(format_number(value)), value) << format_number(value);
    EXPECT_NE(format_number(value).find('.'), std::string::npos)
        << format_number(value);  // a float to every reader
  }
  EXPECT_EQ(format_number(1e-8), "1.0e-08");
  EXPECT_EQ(format_number(10000), "10000.0");
}

TEST(YamlValues, Integers) {
  EXPECT_EQ(parse_integer("010"), 10);
  EXPECT_EQ(parse_integer("-7"), -7);
  EXPECT_EQ(parse_integer("+7"), 7);
  EXPECT_EQ(parse_integer("1e6"), 1000000);
  EXPECT_EQ(parse_integer("2.5e1"), 25);
  EXPECT_EQ(parse_integer("9223372036854775807"), 9223372036854775807);
  for (const char* text : {"", "+", "-", "0x1", "0o7", "1_0", "1.5", "1e-1", "1e300", "9223372036854775808",
                           "1 ", "+-1", "--1", "nan", "e5", "."}) {
    EXPECT_EQ(parse_integer(text), std::nullopt) << text;
  }
}

TEST(YamlValues, TextRoundTrips) {
  for (const std::string text : {"runs/a-b_c.d", "true", "no", "12", "1e5", "a b", "a: b", "#x", "a\"b\\c", "-",
                                 "~", "null", "[x]", "ünï", "../up", "'q'"}) {
    std::vector<std::string> problems;
    const YamlPointer root = read_yaml("k: " + format_text(text) + "\n", "x", problems);
    ASSERT_TRUE(root && problems.empty()) << text;
    EXPECT_EQ(root->find("k")->value->text, text);
    EXPECT_EQ(root->find("k")->value->kind, YamlNode::Kind::scalar);
  }
}

}  // namespace
}  // namespace hysparse
