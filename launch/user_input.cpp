#include "launch/user_input.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <unistd.h>

namespace hysparse {

namespace fs = std::filesystem;

std::string why_not_writable(const std::string& directory) {
  // access() would say yes to root where the file system itself says no.
  std::string name = directory + "/.hysparse-XXXXXX";
  const int file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) return std::strerror(errno);
  ::close(file);
  ::unlink(name.c_str());
  return {};
}

void require_writable_file(const char* key, const std::string& path) {
  if (path.empty()) throw_error("{}: give the name of the file to write", key);
  std::error_code error;
  if (fs::is_directory(path, error))
    throw_error("{}: {}: is a directory, expected the name of a file to write", key, path);
  const std::string parent = fs::path(path).parent_path().string();
  const std::string directory = parent.empty() ? "." : parent;
  const std::string reason = why_not_writable(directory);
  if (!reason.empty()) throw_error("{}: {}: cannot write in directory {}: {}", key, path, directory, reason);
}

void make_writable_directory(const char* key, const std::string& path) {
  if (path.empty()) throw_error("{}: give the name of a directory", key);
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw_error("{}: {}: cannot be made: {}", key, path, error.message());
  const std::string reason = why_not_writable(path);
  if (!reason.empty()) throw_error("{}: {}: cannot be written to: {}", key, path, reason);
}

}  // namespace hysparse
