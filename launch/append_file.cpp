#include "launch/append_file.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "core/error.h"

namespace hysparse {

AppendFile::AppendFile(std::string path, Mode mode) : path_(std::move(path)) {
  const int exclusive = mode == Mode::create_new ? O_EXCL : 0;
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | exclusive, 0644);
  if (descriptor_ < 0) throw_failure("{}: cannot open: {}", path_, std::strerror(errno));
}

AppendFile::~AppendFile() {
  ::close(descriptor_);
}

void AppendFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(descriptor_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) throw_failure("{}: cannot write: {}", path_, std::strerror(errno));
    bytes.remove_prefix(static_cast<std::size_t>(wrote));
  }
}

}  // namespace hysparse
