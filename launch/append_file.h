/// A file that grows: every write reaches the system before it returns, so that a killed run loses at most a
/// torn line.
#pragma once

#include <string>
#include <string_view>

namespace hysparse {

class AppendFile {
 public:
  enum class Mode { append, create_new };
  /// Opens or makes the file; with create_new it must not exist yet. Throws Failure.
  explicit AppendFile(std::string path, Mode mode = Mode::append);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  const std::string& path() const { return path_; }
  /// Throws Failure (disk full).
  void write(std::string_view bytes);

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace hysparse
