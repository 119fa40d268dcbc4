#include "launch/verify_process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "launch/stop_signal.h"

namespace hysparse {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t most_lines = 8;
constexpr std::size_t most_framed_lines = 3;
constexpr std::int64_t most_bytes = 64 << 10;  // of the output that is looked at
constexpr double seconds_to_end = 5;           // after SIGTERM, before SIGKILL

std::vector<std::string> command_line(int ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> words;
  if (ranks > 1) {
    // More ranks than cores, which yield while they wait and are bound to no core.
    words = {"mpirun",
             "--oversubscribe",
             "--bind-to",
             "none",
             "--mca",
             "mpi_yield_when_idle",
             "1",
             "--mca",
             "btl_vader_single_copy_mechanism",
             "none",
             "-np",
             std::to_string(ranks)};
  }
  words.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

/// In the child: becomes the program, or reports errno through `report`.
[[noreturn]] void execute(const std::vector<char*>& argv, int log, int input, int report) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) std::signal(signal, SIG_DFL);
  dup2(input, STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execvp(argv[0], argv.data());
  const int error = errno;
  if (write(report, &error, sizeof(error)) < 0) _exit(126);
  _exit(127);
}

/// A file descriptor, closed at the end of its scope.
struct Descriptor {
  int fd = -1;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

pid_t start(const std::vector<std::string>& words, const std::string& log_path) {
  const Descriptor log{open(log_path.c_str(), O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644)};
  if (log.fd < 0) throw_failure("{}: cannot be written: {}", log_path, std::strerror(errno));
  const Descriptor input{open("/dev/null", O_RDONLY | O_CLOEXEC)};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw_failure("cannot make a pipe: {}", std::strerror(errno));
  const Descriptor from_child{ends[0]};
  Descriptor to_parent{ends[1]};
  std::vector<char*> argv;  // before fork: nothing may be allocated after it
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) throw_failure("cannot start a process: {}", std::strerror(errno));
  if (child == 0) execute(argv, log.fd, input.fd, to_parent.fd);
  setpgid(child, child);  // here as well: whoever is first
  close(to_parent.fd);
  to_parent.fd = -1;
  int error = 0;
  if (read(from_child.fd, &error, sizeof(error)) == static_cast<ssize_t>(sizeof(error))) {
    waitpid(child, nullptr, 0);
    throw_failure("{}: cannot be started: {}", words.front(), std::strerror(error));
  }
  return child;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Waits until the process has ended or `limit_s` is over: true when it has ended.
bool wait_for(pid_t process, double limit_s, int* status) {
  const auto start = Clock::now();
  while (waitpid(process, status, WNOHANG) == 0) {
    if (seconds_since(start) > limit_s) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    if (stop_requested()) return false;
  }
  return true;
}

/// mpirun ends its ranks on SIGTERM.
void end(pid_t process, int* status) {
  kill(process, SIGTERM);
  const auto start = Clock::now();
  while (waitpid(process, status, WNOHANG) == 0) {
    if (seconds_since(start) > seconds_to_end) {
      kill(-process, SIGKILL);
      waitpid(process, status, 0);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

std::string end_of_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  const auto size = static_cast<std::int64_t>(in.tellg());
  in.seekg(std::max<std::int64_t>(0, size - most_bytes));
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

bool started_by_mpirun() {
  // What Open MPI, PMIx (srun) and PMI (MPICH, Intel) set for the ranks that they start.
  constexpr std::array variables = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
  return std::any_of(variables.begin(), variables.end(),
                     [](const char* name) { return std::getenv(name) != nullptr; });
}

ProcessResult run_ranks(int ranks, const std::vector<std::string>& arguments, const std::string& log,
                        double limit_s) {
  if (geteuid() == 0) {  // in containers; it would refuse else
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  }
  const auto began = Clock::now();
  const pid_t process = start(command_line(ranks, arguments), log);
  ProcessResult result;
  int status = 0;
  if (!wait_for(process, limit_s, &status)) {
    end(process, &status);
    if (stop_requested()) throw_failure("stopped by a signal");
    result.timed_out = true;
  }
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.seconds = seconds_since(began);
  result.output = end_of_file(log);
  return result;
}

std::vector<std::string> error_lines_of(const std::string& output) {
  static const std::string prefix = "hysparse: error: ";
  std::vector<std::string> errors, others, framed;
  bool in_frame = false;
  std::istringstream in(output);
  for (std::string line; std::getline(in, line);) {
    const std::size_t at = line.find(prefix);  // behind "rank 3: " where one rank alone fails
    if (at != std::string::npos) {
      std::string text = line.substr(at + prefix.size());
      if (!text.starts_with(line.substr(0, at))) text.insert(0, line.substr(0, at));
      if (std::find(errors.begin(), errors.end(), text) == errors.end()) errors.push_back(text);
    } else if (line.starts_with("-----")) {
      in_frame = !in_frame;
    } else if (line.find_first_not_of(" \t\r") != std::string::npos) {
      (in_frame ? framed : others).push_back(line);
    }
  }
  if (!errors.empty()) {
    if (errors.size() > most_lines) errors.resize(most_lines);
    return errors;
  }
  if (others.empty()) {  // mpirun says the most important first
    framed.resize(std::min(framed.size(), most_framed_lines));
    return framed;
  }
  if (others.size() > most_lines)
    others.erase(others.begin(), others.end() - static_cast<std::ptrdiff_t>(most_lines));
  return others;
}

}  // namespace hysparse
