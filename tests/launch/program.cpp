#include "tests/launch/program.h"

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/random.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> command_line(int ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> words;
  if (ranks > 0) words = {HYSPARSE_SOURCE_DIR "/scripts/mpirun", "-np", std::to_string(ranks)};
  words.push_back(HYSPARSE_PROGRAM);
  words.insert(words.end(), arguments.begin(), arguments.end());
  return words;
}

/// Starts `words` in a process group of its own.
int start(const std::vector<std::string>& words, const std::vector<std::string>& environment,
          const std::string& output, const std::string& errors) {
  const int child = fork();
  if (child != 0) {
    setpgid(child, child);  // here as well: whoever is first
    return child;
  }
  setpgid(0, 0);
  for (const std::string& e : environment) putenv(const_cast<char*>(e.c_str()));
  const auto redirect = [](const std::string& path, int descriptor) {
    const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
    dup2(file, descriptor);
  };
  redirect(output, STDOUT_FILENO);
  redirect(errors, STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

int status_of(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

std::string without_mpirun_frames(const std::string& text) {
  std::istringstream in(text);
  std::string line, kept;
  bool framed = false;
  while (std::getline(in, line)) {
    if (line.starts_with("-----")) {
      framed = !framed;
    } else if (!framed) {
      kept += line + "\n";
    }
  }
  return kept;
}

std::string first_message(const std::string& errors) {
  const std::string text = without_mpirun_frames(errors);
  return text.substr(0, text.find('\n'));
}

WorkDirectory::WorkDirectory() {
  std::string name = (fs::temp_directory_path() / "hysparse-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary directory");
  path_ = name;
}

WorkDirectory::~WorkDirectory() {
  std::error_code ignored;
  fs::permissions(path_, fs::perms::owner_all, ignored);
  fs::remove_all(path_, ignored);
}

ProgramResult run_hysparse(int ranks, const std::vector<std::string>& arguments,
                           const std::vector<std::string>& environment, int timeout_s) {
  const WorkDirectory directory;
  const int child = start(command_line(ranks, arguments), environment, directory / "out", directory / "err");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(timeout_s);
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      kill(-child, SIGKILL);
      waitpid(child, &status, 0);
      return {124, read_file(directory / "out"), read_file(directory / "err")};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return {status_of(status), read_file(directory / "out"), without_mpirun_frames(read_file(directory / "err"))};
}

BackgroundProgram::BackgroundProgram(int ranks, const std::vector<std::string>& arguments,
                                     const std::string& log, const std::vector<std::string>& environment)
    : process_(start(command_line(ranks, arguments), environment, log, log + ".err")) {}

BackgroundProgram::~BackgroundProgram() {
  if (waited_) return;
  kill(-process_, SIGKILL);
  wait();
}

bool BackgroundProgram::running() {
  if (waited_) return false;
  int status = 0;
  if (waitpid(process_, &status, WNOHANG) == 0) return true;
  status_ = status_of(status);
  waited_ = true;
  return false;
}

std::vector<int> BackgroundProgram::rank_processes() const {
  struct Process {
    std::string name;
    int parent = 0;
  };
  std::map<int, Process> processes;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string id = entry.path().filename().string();
    if (id.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream in(entry.path() / "stat");  // "pid (name) state parent ..."
    std::string pid, name, state;
    int parent = 0;
    if (in >> pid >> name >> state >> parent) processes[std::stoi(id)] = {name, parent};
  }
  std::vector<int> found;
  for (const auto& [id, process] : processes) {
    if (process.name != "(hysparse)") continue;
    int ancestor = id;
    while (ancestor != process_ && processes.contains(ancestor)) ancestor = processes[ancestor].parent;
    if (ancestor == process_) found.push_back(id);
  }
  return found;
}

void BackgroundProgram::signal(int signal) const {
  kill(process_, signal);
}

int BackgroundProgram::wait() {
  int status = 0;
  if (!waited_ && waitpid(process_, &status, 0) == process_) status_ = status_of(status);
  waited_ = true;
  return status_;
}

std::string sample_text(std::size_t bytes, std::uint64_t seed) {
  static const char* const words[] = {"the",   "oracle", "chooses", "blocks", "of", "keys",
                                      "for",   "every",  "layer",   "behind", "it", "and",
                                      "reads", "again",  "a",       "window"};
  const CounterRandom random(seed, "sample text");
  std::string text;
  for (std::uint64_t i = 0; text.size() < bytes; ++i) {
    text += words[random.below(i, std::size(words))];
    text += random.below(i + (1ull << 40), 12) == 0 ? ".\n" : " ";
  }
  text.resize(bytes);
  return text;
}

void prepare_data(const WorkDirectory& directory, std::size_t bytes) {
  fs::create_directory(directory / "text");
  constexpr int documents = 40;
  for (int d = 0; d < documents; ++d) {
    std::ofstream(directory / fmt::format("text/{:03}.txt", d))
        << sample_text(bytes / documents, static_cast<std::uint64_t>(d));
  }
  const ProgramResult result = run_hysparse(
      0, {"prepare", "--input", directory / "text", "--tokenizer", "byte", "--output", directory / "train.h5",
          "--valid-output", directory / "valid.h5", "--valid-fraction", "0.2"});
  if (result.status != 0) throw std::runtime_error("prepare: " + result.errors);
}

std::string write_small_config(const WorkDirectory& directory) {
  const std::string path = directory / "config.yaml";
  std::ofstream(path) << "run: {dir: " << directory / "run"
                      << ", seed: 7}\n"
                      << R"(model:
  attention: hysparse
  hybrid_ratio: "1:3"
  num_layers: 5
  vocab_size: 320
  hidden_size: 32
  num_heads: 4
  num_kv_heads: 2
  head_dim: 8
  intermediate_size: 64
  sliding_window: 8
  sparse_block_size: 8
  sparse_topk_tokens: 16
  tie_embeddings: true
  moe:
    num_experts: 8
    top_k: 2
    intermediate_size: 16
    shared_experts: 1
    first_k_dense: 1
    bias_update_rate: 0.01
    aux_loss: 0.01
    z_loss: 0.001
train: {seq_len: 32, micro_batch_size: 1, global_batch_size: 8, steps: 20, eval_every: 5, eval_batches: 2}
optim: {lr: 3.0e-3, warmup_steps: 3, decay_steps: 5, clip_grad: 0.5}
checkpoint: {every: 0}
)"
                      << "data: {train: " << directory / "train.h5"
                      << ", valid: " << directory / "valid.h5"
                      << "}\n";
  return path;
}

std::vector<nlohmann::json> read_metrics(const std::string& run_directory) {
  std::ifstream in(run_directory + "/metrics.jsonl");
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

}  // namespace hysparse::testing
