#include "launch/progress_terminal.h"

#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace hysparse {
namespace {

int columns_of(int descriptor) {
  constexpr int usual = 80;  // of a terminal that does not know its size
  if (::isatty(descriptor) == 0) return 0;
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return usual;
  return size.ws_col;
}

}  // namespace

int terminal_columns() {
  const char* terminal = std::getenv("TERM");
  if (terminal == nullptr || std::string(terminal) == "dumb") return 0;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return columns_of(STDOUT_FILENO);
  const int descriptor =
      ::open(fmt::format("/proc/{}/fd/1", ::getppid()).c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return 0;
  const int columns = columns_of(descriptor);
  ::close(descriptor);
  return columns;
}

}  // namespace hysparse
