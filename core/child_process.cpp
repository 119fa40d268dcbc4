#include "core/child_process.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstring>
#include <exception>
#include <fstream>
#include <optional>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr int threw = 1;

/// Bytes of address space that this process has; nothing where the system does not say.
std::optional<std::int64_t> address_space() {
  std::int64_t pages = 0;
  if (!(std::ifstream("/proc/self/statm") >> pages)) return std::nullopt;
  return pages * sysconf(_SC_PAGESIZE);
}

void limit(decltype(RLIMIT_CORE) resource, rlim_t most) {
  rlimit now{};
  if (getrlimit(resource, &now) != 0) return;
  now.rlim_cur = std::min(now.rlim_max, most);
  setrlimit(resource, &now);
}

void write_all(int descriptor, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t written = write(descriptor, text.data() + at, text.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) _exit(threw);
    at += static_cast<std::size_t>(written);
  }
}

[[noreturn]] void run_child(const std::function<std::string()>& body, const ChildLimits& limits,
                            int descriptor) {
  for (const int handled : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGXCPU}) std::signal(handled, SIG_DFL);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, static_cast<rlim_t>(std::ceil(limits.seconds)));
  if (const auto now = address_space()) limit(RLIMIT_AS, static_cast<rlim_t>(*now + limits.more_bytes));
  int status = 0;
  std::string text;
  try {
    text = body();
  } catch (const std::exception& e) {
    status = threw;
    text = e.what();
  }
  write_all(descriptor, text);
  _exit(status);  // what the parent would do at its end is not the child's to do
}

std::string read_all(int descriptor) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = read(descriptor, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

}  // namespace

std::string in_child_process(const std::function<std::string()>& body, const ChildLimits& limits) {
  int ends[2];
  if (pipe(ends) != 0) throw_failure("cannot make a pipe: {}", std::strerror(errno));
  const pid_t child = fork();
  if (child < 0) {
    const int why = errno;
    close(ends[0]);
    close(ends[1]);
    throw_failure("cannot start a child process: {}", std::strerror(why));
  }
  if (child == 0) {
    close(ends[0]);
    run_child(body, limits, ends[1]);
  }
  close(ends[1]);
  const std::string text = read_all(ends[0]);
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) {
    throw_failure("ended by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  }
  if (WEXITSTATUS(status) != 0) throw_failure("{}", text);
  return text;
}

}  // namespace hysparse
