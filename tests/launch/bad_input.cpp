#include "tests/launch/bad_input.h"

#include <chrono>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <thread>

#include <fmt/format.h>

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;

/// A refusal takes a fraction of a second; this many, on a busy machine, mean that ranks wait for each other.
constexpr int timeout_s = 60;
constexpr std::chrono::seconds ranks_may_linger{2};

std::unique_ptr<WorkDirectory> work;

std::string in_work(std::string text) {
  for (std::size_t at; (at = text.find('@')) != std::string::npos;) text.replace(at, 1, work->path().string());
  return text;
}
std::vector<std::string> in_work(std::vector<std::string> texts) {
  for (std::string& text : texts) text = in_work(text);
  return texts;
}

/// Path -> bytes of every file below the work directory; directories have none.
std::map<std::string, std::string> contents() {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(work->path()))
    all[entry.path()] = entry.is_regular_file() ? read_file(entry.path()) : "directory";
  return all;
}

/// What differs between two states of the work directory, by name.
std::string difference(const std::map<std::string, std::string>& before,
                       const std::map<std::string, std::string>& after) {
  std::string text;
  for (const auto& [path, bytes] : after) {
    const auto old = before.find(path);
    if (old == before.end()) text += "new: " + path + "\n";
    if (old != before.end() && old->second != bytes) text += "changed: " + path + "\n";
  }
  for (const auto& [path, bytes] : before) {
    if (!after.contains(path)) text += "gone: " + path + "\n";
  }
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// Is `line` "hysparse: error: " and the pattern, whose "..." stands for any text?
bool matches(const std::string& line, const std::string& pattern) {
  const std::string dots = "...";
  std::string rest = "hysparse: error: " + pattern;
  std::size_t at = 0;
  for (bool first = true;; first = false) {
    const std::size_t end = rest.find(dots);
    const std::string part = rest.substr(0, end);
    if (end == std::string::npos) {  // the last part ends the line
      return line.size() >= at + part.size() && line.ends_with(part) && (!first || line.size() == part.size());
    }
    const std::size_t found = line.find(part, at);
    if (found == std::string::npos || (first && found != 0)) return false;
    at = found + part.size();
    rest = rest.substr(end + dots.size());
  }
}

/// A process that was given the work directory on its command line.
bool any_process() {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (read_file(entry.path() / "cmdline").find(work->path()) != std::string::npos) return true;
  }
  return false;
}

bool processes_end() {
  const auto deadline = std::chrono::steady_clock::now() + ranks_may_linger;
  while (any_process()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

}  // namespace

void BadInputTest::SetUpTestSuite() {
  work = std::make_unique<WorkDirectory>();
  prepare_data(*work, 20000);
  write_small_config(*work);
}

void BadInputTest::TearDownTestSuite() {
  work.reset();
}

void BadInputTest::with_run() {
  const auto done = [](const std::vector<std::string>& arguments) {
    const ProgramResult result = run_hysparse(0, arguments);
    if (result.status != 0) throw std::runtime_error(result.errors);
  };
  if (fs::exists(*work / "export")) return;
  done({"train", *work / "config.yaml", "train.steps=2", "train.eval_every=0", "checkpoint.every=1"});
  done({"export", *work / "run", "--output", *work / "export"});
}

const WorkDirectory& BadInputTest::directory() {
  return *work;
}

void BadInputTest::expect_refused(const std::vector<BadInput>& cases) {
  for (const BadInput& bad : cases) {
    const std::vector<std::string> arguments = in_work(bad.arguments);
    SCOPED_TRACE(fmt::format("{}", fmt::join(arguments, " ")));
    const std::string place = *work / "case";
    fs::remove_all(place);
    fs::create_directory(place);
    if (bad.make) bad.make(place);
    const auto before = contents();
    const ProgramResult result = run_hysparse(bad.ranks, arguments, in_work(bad.environment), timeout_s);
    EXPECT_EQ(result.status, 2);
    EXPECT_EQ(result.output, "");
    const std::vector<std::string> lines = lines_of(result.errors);
    EXPECT_EQ(lines.size(), bad.errors.size()) << result.errors;
    for (std::size_t i = 0; i < std::min(lines.size(), bad.errors.size()); ++i)
      EXPECT_TRUE(matches(lines[i], in_work(bad.errors[i]))) << lines[i] << "\nexpected: " << bad.errors[i];
    EXPECT_EQ(difference(before, contents()), "");
    EXPECT_TRUE(processes_end());
  }
  fs::remove_all(*work / "case");
}

std::vector<std::string> train(const std::vector<std::string>& overrides) {
  std::vector<std::string> arguments = {"train", "@/config.yaml", "run.dir=@/case/run"};
  arguments.insert(arguments.end(), overrides.begin(), overrides.end());
  return arguments;
}

void write_file(const std::string& path, const std::string& bytes) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::function<void(const std::string&)> with_file(const std::string& name, const std::string& bytes) {
  return [=](const std::string& place) { write_file(place + "/" + name, bytes); };
}

void flip_byte(const std::string& path) {
  std::string bytes = read_file(path);
  char& middle = bytes.at(bytes.size() / 2);
  middle = static_cast<char>(~middle);
  write_file(path, bytes);
}

void halve(const std::string& path) {
  fs::resize_file(path, fs::file_size(path) / 2);
}

void edit(const std::string& path, const std::string& from, const std::string& to) {
  std::string bytes = read_file(path);
  const std::size_t at = bytes.find(from);
  if (at == std::string::npos) throw std::runtime_error(path + ": has no " + from);
  write_file(path, bytes.replace(at, from.size(), to));
}

void copy_tree(const std::string& from, const std::string& to) {
  fs::copy(from, to, fs::copy_options::recursive);
}

}  // namespace hysparse::testing
