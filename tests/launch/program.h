/// Runs the program as a user would: a process of its own, under mpirun or not, in a temporary directory.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace hysparse::testing {

struct ProgramResult {
  int status = -1;     ///< exit status; 128 + signal when killed
  std::string output;  ///< stdout
  std::string errors;  ///< stderr, without the frames that mpirun itself adds
};

/// stderr without the frames of dashes around mpirun's own words about ranks that ended with a status.
std::string without_mpirun_frames(const std::string& text);
/// The first line of stderr, those frames left out.
std::string first_message(const std::string& errors);

/// A directory under the system's temporary one, removed with its owner.
class WorkDirectory {
 public:
  WorkDirectory();
  ~WorkDirectory();
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// `hysparse arguments...` on `ranks` ranks: 0 without mpirun, else through scripts/mpirun. `environment`:
/// "NAME=value". Killed after `timeout_s`, which the caller should treat as a hang (status 124).
ProgramResult run_hysparse(int ranks, const std::vector<std::string>& arguments,
                           const std::vector<std::string>& environment = {}, int timeout_s = 120);

/// Starts the program without waiting; for tests that kill it.
class BackgroundProgram {
 public:
  /// Its stdout goes to `log`, its stderr to `log`.err.
  BackgroundProgram(int ranks, const std::vector<std::string>& arguments, const std::string& log,
                    const std::vector<std::string>& environment = {});
  ~BackgroundProgram();  ///< kills it
  BackgroundProgram(const BackgroundProgram&) = delete;
  BackgroundProgram& operator=(const BackgroundProgram&) = delete;
  bool running();
  /// Process ids of the ranks: what runs hysparse at or below the process started, in order of the ids.
  std::vector<int> rank_processes() const;
  /// To the process started: scripts/mpirun, or the program itself without ranks.
  void signal(int signal) const;
  /// Exit status as in ProgramResult.
  int wait();

 private:
  int process_ = -1;
  int status_ = -1;
  bool waited_ = false;
};

/// Pseudo-random English-like text with structure that a model can learn, a pure function of seed.
std::string sample_text(std::size_t bytes, std::uint64_t seed);

/// Writes text files and prepares them: `directory`/train.h5 and valid.h5.
void prepare_data(const WorkDirectory& directory, std::size_t bytes);

/// Writes `directory`/config.yaml: a hysparse mixture of experts of 5 layers with every part of training on
/// (shared expert, tied embeddings, both router losses, correction bias, clipping that bites), for the data of
/// prepare_data. Returns its path.
std::string write_small_config(const WorkDirectory& directory);

/// The lines of RUN/metrics.jsonl.
std::vector<nlohmann::json> read_metrics(const std::string& run_directory);

}  // namespace hysparse::testing
