#include "tests/launch/run_files.h"

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include <gtest/gtest.h>

#include "checkpoint/reader.h"
#include "checkpoint/step_directories.h"

namespace hysparse::testing {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

std::int64_t steps_written(const std::string& run_directory) {
  return count(read_file(run_directory + "/metrics.jsonl"), "\n");
}

bool saving(const std::string& run_directory) {
  std::error_code none_yet;
  for (const auto& entry : fs::directory_iterator(checkpoints_directory(run_directory), none_yet))
    if (entry.path().extension() == ".tmp") return true;
  return false;
}

std::int64_t latest_step(const std::string& run_directory) {
  std::vector<std::string> warnings;
  const auto latest = find_latest(run_directory, &warnings);
  // A disk that fills up, or a kill, between the first step's name and `latest` leaves that step without it.
  if (fs::exists(latest_path(checkpoints_directory(run_directory)))) {
    EXPECT_TRUE(warnings.empty()) << warnings.front();
  }
  if (!latest) return 0;
  for (const auto& entry : fs::directory_iterator(checkpoints_directory(run_directory)))
    if (step_of_name(entry.path().filename().string())) CheckpointReader(entry.path().string()).verify();
  return CheckpointReader(*latest).info().step;
}

bool wait_until(BackgroundProgram& program, const std::function<bool()>& condition) {
  while (!condition()) {
    if (!program.running()) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

void expect_same_steps(const std::vector<Json>& run, const std::vector<Json>& expected) {
  ASSERT_EQ(run.size(), expected.size());
  for (std::size_t i = 0; i < run.size(); ++i) {
    ASSERT_EQ(run[i]["step"], i + 1);  // each once, in order
    for (const char* key : {"loss", "grad_norm", "lr", "tokens", "valid_loss", "moe"})
      EXPECT_EQ(run[i].value(key, Json()), expected[i].value(key, Json())) << "step " << i + 1 << ", " << key;
  }
}

void expect_same_state(const std::string& step_directory, const std::string& expected) {
  CheckpointReader a(step_directory), b(expected);
  EXPECT_EQ(a.info().step, b.info().step);
  EXPECT_EQ(a.info().tokens_seen, b.info().tokens_seen);
  EXPECT_EQ(a.info().data_state, b.info().data_state);
  const std::vector<TensorInfo> tensors = b.tensors();
  ASSERT_EQ(a.tensors().size(), tensors.size());
  for (const TensorInfo& tensor : tensors) {
    ASSERT_TRUE(a.contains(tensor.name)) << tensor.name;
    const Tensor x = a.read(tensor.name, tensor.dtype), y = b.read(tensor.name, tensor.dtype);
    ASSERT_EQ(x.shape(), y.shape()) << tensor.name;
    EXPECT_EQ(std::memcmp(x.raw(), y.raw(), static_cast<std::size_t>(x.bytes())), 0) << tensor.name;
  }
}

}  // namespace hysparse::testing
