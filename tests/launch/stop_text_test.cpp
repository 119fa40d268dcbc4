#include "launch/stop_text.h"

#include <gtest/gtest.h>

namespace hysparse {
namespace {

/// Text and whether it was stopped, `text` coming in pieces of n bytes.
std::pair<std::string, bool> run(const std::vector<std::string>& stops, const std::string& text,
                                 std::size_t n) {
  StopText stop(stops);
  std::string out;
  for (std::size_t i = 0; i < text.size(); i += n) out += stop.push(text.substr(i, n));
  if (!stop.stopped()) out += stop.finish();
  return {out, stop.stopped()};
}

TEST(StopText, EndsBeforeTheFirstInAnyPieces) {
  for (std::size_t n = 1; n <= 12; ++n) {
    EXPECT_EQ(run({"END"}, "some text END and more", n), std::pair(std::string("some text "), true));
    EXPECT_EQ(run({"END"}, "EEN ENEND", n), std::pair(std::string("EEN EN"), true));
    EXPECT_EQ(run({"aab"}, "aaaab", n), std::pair(std::string("aa"), true));
    EXPECT_EQ(run({"xyz", "\n\n"}, "a\nb\n\nxyz", n), std::pair(std::string("a\nb"), true));
    EXPECT_EQ(run({"END"}, "no such word EN", n), std::pair(std::string("no such word EN"), false));
    EXPECT_EQ(run({}, "anything", n), std::pair(std::string("anything"), false));
  }
}

TEST(StopText, HoldsBackNoMoreThanAStopTextMayNeed) {
  StopText stop({"\n\nQ:"});
  EXPECT_EQ(stop.push("abc\n"), "abc");
  EXPECT_EQ(stop.push("\n"), "");
  EXPECT_EQ(stop.push("x"), "\n\nx");
  EXPECT_EQ(stop.push("\n\nQ"), "");
  EXPECT_EQ(stop.push(":y"), "");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.push("more"), "");
}

}  // namespace
}  // namespace hysparse
