/// Ends a text where it first says one of some words, while it comes in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hysparse {

class StopText {
 public:
  /// None of them empty.
  explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Takes more text; returns what can no longer become part of a stop text. After the first stop text nothing
  /// comes any more: it and what follows are dropped.
  std::string push(std::string_view text);
  bool stopped() const { return stopped_; }
  /// At the end of the text: what was held back.
  std::string finish();

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace hysparse
