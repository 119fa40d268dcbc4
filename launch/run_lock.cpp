#include "launch/run_lock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file.h"
#include "core/error.h"
#include "launch/user_input.h"

namespace hysparse {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds patience{3};
constexpr std::chrono::milliseconds pause{20};
constexpr std::size_t most_text = 200;

std::string own_name() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return fmt::format("process {} on {}", ::getpid(), host.data());
}

std::string text_in(int descriptor) {
  std::array<char, most_text> text{};
  const ssize_t bytes = ::pread(descriptor, text.data(), text.size(), 0);
  std::string holder(text.data(), static_cast<std::size_t>(std::max<ssize_t>(bytes, 0)));
  holder = holder.substr(0, holder.find('\n'));
  return holder.empty() ? "of unknown name" : printable(holder);
}

/// Whether the open file is still the one of this name: who held it may have removed it.
bool is_at(int descriptor, const std::string& path) {
  struct stat open {
  }, named{};
  return ::fstat(descriptor, &open) == 0 && ::stat(path.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

}  // namespace

RunLock::RunLock(const std::string& run_directory) : path_(run_directory + "/lock") {
  const auto deadline = Clock::now() + patience;
  while (true) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (descriptor_ < 0) return;
    int status = ::flock(descriptor_, LOCK_EX | LOCK_NB);
    while (status != 0 && errno == EINTR) status = ::flock(descriptor_, LOCK_EX | LOCK_NB);
    const bool taken = status != 0 && errno == EWOULDBLOCK;
    if (!taken && is_at(descriptor_, path_)) break;
    const std::string holder = text_in(descriptor_);
    ::close(descriptor_);
    if (taken && Clock::now() > deadline) {
      throw_error(
          "run.dir: {}: another run is using it ({}); stop that one, or give this one a directory of its own",
          run_directory, holder);
    }
    std::this_thread::sleep_for(pause);
  }
  // For people, and for the message above; a disk that is full keeps no one from holding the lock.
  const std::string name = own_name() + "\n";
  (void)!::ftruncate(descriptor_, 0);
  (void)!::pwrite(descriptor_, name.data(), name.size(), 0);
}

RunLock::~RunLock() {
  if (descriptor_ < 0) return;
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

std::unique_ptr<RunLock> RunLock::of_existing(const std::string& run_directory) {
  struct stat status {};
  if (::stat(run_directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return nullptr;
  if (!why_not_writable(run_directory).empty()) return nullptr;
  return std::make_unique<RunLock>(run_directory);
}

}  // namespace hysparse
