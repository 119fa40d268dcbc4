/// Regular expressions of tokenizer.json files (Oniguruma's, Ruby syntax) by PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace hysparse {

class Regex {
 public:
  /// Throws Error, beginning with `where`, for a pattern that PCRE2 refuses or that means something else there.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;

  struct Match {
    std::size_t begin, end;
  };
  /// Room of one thread.
  class Room {
   public:
    Room();
    ~Room();
    Room(Room&&) noexcept;

   private:
    friend class Regex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };
  /// The first match from `from` on; false: none. Throws Error when the search takes too many steps.
  bool search(std::string_view text, std::size_t from, Room& room, Match& match) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hysparse
