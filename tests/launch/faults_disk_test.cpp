// A disk that fills up: the file and the reason are named, what was saved before stays, and the run goes on
// when there is room again. The disk is a small tmpfs, mounted in a namespace of its own, which goes with the
// test.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <regex>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "tests/launch/fault_run.h"
#include "tests/launch/run_files.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* in_namespace = "HYSPARSE_TEST_MAY_MOUNT";

int status_of(const std::string& command) {
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// A file system of its own size below a directory, while it lives.
class SmallDisk {
 public:
  SmallDisk(std::string directory, std::int64_t bytes) : directory_(std::move(directory)) {
    fs::create_directories(directory_);
    if (mount("hysparse-test", directory_.c_str(), "tmpfs", 0, fmt::format("size={}", bytes).c_str()) != 0)
      throw std::runtime_error(fmt::format("{}: cannot mount a tmpfs: {}", directory_, std::strerror(errno)));
  }
  ~SmallDisk() { umount2(directory_.c_str(), MNT_DETACH); }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  /// Fills it up but for `bytes`, also while others write to it.
  void leave_room(std::int64_t bytes) const {
    const int file = open(filler().c_str(), O_CREAT | O_WRONLY, 0644);
    for (std::int64_t filled = 0; free_bytes() > bytes;) {
      const std::int64_t more = free_bytes() - bytes;
      if (more > 0 && fallocate(file, 0, filled, more) == 0) filled += more;
    }
    close(file);
  }
  /// Lets nobody write any more, or again. Tries until no file is open for writing.
  void set_read_only(bool read_only) const {
    const unsigned long flags = MS_REMOUNT | MS_BIND | (read_only ? MS_RDONLY : 0);
    while (mount(nullptr, directory_.c_str(), nullptr, flags, nullptr) != 0) {
      if (errno != EBUSY) {
        throw std::runtime_error(fmt::format("{}: cannot remount: {}", directory_, std::strerror(errno)));
      }
    }
  }
  void make_room() const { fs::remove(filler()); }

 private:
  std::string filler() const { return directory_ + "/filler"; }
  std::int64_t free_bytes() const {
    struct statvfs status {};
    statvfs(directory_.c_str(), &status);
    return static_cast<std::int64_t>(status.f_bavail * status.f_frsize);
  }

  std::string directory_;
};

class FaultsOfDisk : public Faults {
 protected:
  /// Runs this test again, in a process that may mount.
  static void run_in_namespace() {
    const std::string program = fs::read_symlink("/proc/self/exe").string();
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    const std::string again =
        fmt::format("{}=1 {} --gtest_filter={}.{} --gtest_random_seed={}", in_namespace, program,
                    test->test_suite_name(), test->name(), GTEST_FLAG_GET(random_seed));
    for (const std::string way : {"unshare -m", "unshare -rm"}) {
      if (status_of(way + " sh -c 'mount -t tmpfs hysparse-test /mnt'") != 0) continue;
      EXPECT_EQ(status_of(fmt::format("{} sh -c '{}'", way, again)), 0);
      return;
    }
    FAIL() << "this test needs a small disk and may mount none: `unshare -m` must be allowed to root (the "
              "capability SYS_ADMIN), or `unshare -rm` to all (user namespaces); above is what they say";
  }

  /// The program's message, whichever rank it is of: a file below the disk, and why.
  static void expect_no_space(const std::string& errors, const std::string& disk) {
    const std::regex message(R"((rank \d+: )?hysparse: error: (rank \d+: )?)" + disk +
                             R"(/[^ ]+: cannot [a-z ]+( \d+ bytes)?: No space left on device)");
    EXPECT_TRUE(std::regex_match(first_message(errors), message)) << errors;
  }

  static std::vector<std::string> steps_in(const std::string& run) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(checkpoints_directory(run)))
      if (entry.is_directory()) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  static bool only_steps(const std::vector<std::string>& names) {
    return std::all_of(names.begin(), names.end(), [](const auto& name) { return step_of_name(name); });
  }
};

TEST_F(FaultsOfDisk, ADirectoryThatBecomesReadOnly) {
  if (std::getenv(in_namespace) == nullptr) return run_in_namespace();
  setenv("OMPI_MCA_orte_tmpdir_base", directory_.path().c_str(), 1);
  for (int i = 0; i < rounds(); ++i) {
    const Round r = round(i, 2);
    SCOPED_TRACE(fmt::format("round {}, {}", i, r.layout->name));
    const std::string place = checkpoints_directory(r.run);
    const SmallDisk disk(place, std::int64_t{48} << 20);
    {
      BackgroundProgram program(r.layout->ranks,
                                command(*r.layout, r.run, {"train.steps=1000", "checkpoint.keep=2"}), r.log);
      ASSERT_TRUE(wait_for_moment(program, r)) << read_file(r.log + ".err");
      disk.set_read_only(true);
      wait_until(program, [&] { return count(read_file(r.log + ".err"), "\n") > 0; });
      const Ending ending = wait_for_end(program, r, Clock::now());
      EXPECT_EQ(ending.status, 1) << ending.errors;
      EXPECT_TRUE(std::regex_match(
          first_message(ending.errors),
          std::regex(R"((rank \d+: )?hysparse: error: (rank \d+: )?)" + place + ".*: Read-only file system")))
          << ending.errors;
      EXPECT_EQ(count(ending.errors, "hysparse: error"), 1) << ending.errors;
    }
    disk.set_read_only(false);
    expect_nothing_lost(r);
  }
}

TEST_F(FaultsOfDisk, ADiskThatIsFull) {
  if (std::getenv(in_namespace) == nullptr) return run_in_namespace();
  // Open MPI's own directory is named after the user, who is root in here, and may be the real root's.
  setenv("OMPI_MCA_orte_tmpdir_base", directory_.path().c_str(), 1);
  constexpr std::int64_t disk_bytes = 48 << 20, checkpoint_bytes = 2 << 20;
  const std::vector<std::string> keep_all{"train.steps=1000", "checkpoint.keep=1000"};
  for (int i = 0; i < rounds(); ++i) {
    const Round r = round(i, 3);
    SCOPED_TRACE(fmt::format("round {}, {}", i, r.layout->name));
    const bool whole_run = i % 2 == 1;  // else the checkpoints alone
    const std::string place = whole_run ? r.run : checkpoints_directory(r.run);
    const SmallDisk disk(place, disk_bytes);
    {
      BackgroundProgram program(r.layout->ranks, command(*r.layout, r.run, keep_all), r.log);
      ASSERT_TRUE(wait_for_moment(program, r)) << read_file(r.log + ".err");
      disk.leave_room(draw(2) == 0 ? draw(1 << 16) : draw(checkpoint_bytes));
      wait_until(program, [&] { return count(read_file(r.log + ".err"), "\n") > 0; });
      const Ending ending = wait_for_end(program, r, Clock::now());
      EXPECT_EQ(ending.status, 1) << ending.errors;
      expect_no_space(ending.errors, place);
      EXPECT_EQ(count(ending.errors, "hysparse: error"), 1) << ending.errors;
    }
    const std::vector<std::string> saved = steps_in(r.run);
    // Rank 0's metrics find no room on the run's disk either, and what that rank alone throws ends the others
    // in the middle of a save; a save that fails clears up behind itself.
    EXPECT_TRUE(whole_run || only_steps(saved)) << fmt::format("{}", fmt::join(saved, " "));
    if (whole_run || draw(2) == 0) {  // started again too soon
      const ProgramResult again = run_hysparse(r.layout->ranks, command(*r.layout, r.run, keep_all));
      EXPECT_EQ(again.status, 1) << again.errors;
      expect_no_space(again.errors, place);
      // Room that a save gave back when it failed may do for one step more.
      const std::vector<std::string> now = steps_in(r.run);
      for (const std::string& step : saved)
        EXPECT_TRUE(!step_of_name(step) || std::count(now.begin(), now.end(), step) == 1) << step << " is gone";
    }
    disk.make_room();
    expect_nothing_lost(r);
    EXPECT_TRUE(only_steps(steps_in(r.run)));
  }
}

}  // namespace
}  // namespace hysparse::testing
