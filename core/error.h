/// The one error policy. `Error`: the user's mistake (config, file, shape); the program prints its problems,
/// one line each, and exits 2. `Failure`: the world failed while running (disk full, a lost rank); exit 1.
/// HYSPARSE_CHECK: our bug; the message names expression, values, place and rank; exit 1.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace hysparse {

/// The user's mistake. Holds one or more problems; what() joins them by newlines.
class Error : public std::runtime_error {
 public:
  explicit Error(std::string problem);
  explicit Error(std::vector<std::string> problems);
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  std::vector<std::string> problems_;
};

/// Something outside failed while running: the run ends with exit status 1.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A broken invariant of ours.
class CheckFailure : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

template <class... Args>
[[noreturn]] void throw_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void throw_failure(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure(fmt::format(format, std::forward<Args>(args)...));
}

/// The rank that check messages name; the launcher sets it once, before any thread starts.
void set_rank_in_messages(int rank);
int rank_in_messages();

namespace detail {
[[noreturn]] void check_failed(const char* expression, const char* file, int line, const std::string& values);
inline std::string check_values() {
  return {};
}
template <class... Args>
std::string check_values(fmt::format_string<Args...> format, Args&&... args) {
  return fmt::format(format, std::forward<Args>(args)...);
}
}  // namespace detail
}  // namespace hysparse

/// HYSPARSE_CHECK(a == b, "a {} b {}", a, b): throws CheckFailure when the expression is false.
#define HYSPARSE_CHECK(expression, ...)                                                \
  do {                                                                                 \
    if (!(expression)) [[unlikely]]                                                    \
      ::hysparse::detail::check_failed(#expression, __FILE__, __LINE__,                \
                                       ::hysparse::detail::check_values(__VA_ARGS__)); \
  } while (false)
