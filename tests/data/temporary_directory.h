/// A fresh directory for one test, removed with it, and the few file helpers that tests need.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "core/error.h"

namespace hysparse {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = std::filesystem::temp_directory_path() / "hysparse-test-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw Failure("cannot make " + pattern);
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  /// The path of a name in it.
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, const std::string& bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The message of the Error that `action` throws; fails the test when it throws none, or has several lines.
template <class F>
std::string error_message(F&& action) {
  try {
    std::forward<F>(action)();
  } catch (const Error& error) {
    EXPECT_EQ(error.problems().size(), 1u) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace hysparse

/// The action throws one Error whose message names both strings.
#define EXPECT_ERROR(action, part_1, part_2)                                                   \
  do {                                                                                         \
    const std::string message = ::hysparse::error_message([&] { static_cast<void>(action); }); \
    EXPECT_TRUE(::hysparse::contains(message, part_1)) << message;                             \
    EXPECT_TRUE(::hysparse::contains(message, part_2)) << message;                             \
  } while (false)
