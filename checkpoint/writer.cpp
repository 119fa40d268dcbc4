#include "checkpoint/writer.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "checkpoint/agreement.h"
#include "checkpoint/region.h"
#include "checkpoint/shard.h"
#include "checkpoint/step_directories.h"
#include "core/error.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

/// A rank's text for the others: its report, or why there is none.
constexpr char written = '+', failed = '-';

/// Throws Failure when the pieces of a tensor leave elements out.
void check_coverage(const Manifest& manifest) {
  for (const auto& [name, tensor] : manifest.tensors) {
    if (const auto missing = uncovered(tensor, whole_box(tensor.global_shape))) {
      throw_failure("tensor {} {}: no rank saves {} at {}", name, tensor.global_shape.str(),
                    missing->shape.str(), missing->offset.str());
    }
  }
}

}  // namespace

/// A save in flight. The thread writes `report`, then `done`; nothing else of it is shared.
struct CheckpointWriter::Job {
  CheckpointInfo info;
  std::vector<Piece> pieces;
  ShardPlan plan;
  std::string report;
  std::atomic<bool> done{false};
  std::thread thread;

  ~Job() {
    if (thread.joinable()) thread.join();
  }
  void run() noexcept {
    try {
      report = written + report_text({fill_shard(plan, pieces), std::move(plan.tensors)});
    } catch (const std::exception& error) {
      report = failed + std::string(error.what());
    }
    pieces.clear();
    done = true;
  }
};

CheckpointWriter::CheckpointWriter(std::string run_directory, int keep, Communicator& world)
    : run_directory_(std::move(run_directory)),
      directory_(checkpoints_directory(run_directory_)),
      keep_(keep),
      world_(world) {
  HYSPARSE_CHECK(keep >= 1, "keep {}", keep);
  agree(world_, [&] {
    if (world_.rank() != 0) return;
    std::error_code error;
    fs::create_directories(directory_, error);
    if (error) throw_failure("{}: cannot make the directory: {}", directory_, error.message());
    remove_leftovers(run_directory_);
  });
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::save(const CheckpointInfo& info, std::vector<Piece> pieces, bool async) {
  finish();
  HYSPARSE_CHECK(info.step >= 0, "step {}", info.step);
  const std::string partial = fmt::format("{}/{}{}", directory_, step_name(info.step), partial_suffix);
  agree(world_, [&] {
    if (world_.rank() != 0) return;
    remove_leftovers(run_directory_);
    std::error_code error;
    fs::create_directory(partial, error);
    if (error) throw_failure("{}: cannot make the directory: {}", partial, error.message());
  });

  auto job = std::make_unique<Job>();
  try {
    agree(world_, [&] {
      job->info = info;
      job->plan = create_shard(fmt::format("{}/{}", partial, shard_name(world_.rank())), pieces, info.step,
                               world_.rank());
      if (async) {
        for (Piece& piece : pieces) piece.data = piece.data.clone();
      }
      job->pieces = std::move(pieces);
      job->thread = std::thread([raw = job.get()] { raw->run(); });
    });
  } catch (const Failure&) {
    job.reset();  // waits for a thread that did start
    discard(partial);
    throw;
  }
  job_ = std::move(job);
  if (!async) finish();
}

bool CheckpointWriter::poll() {
  if (job_ == nullptr) return true;
  const Tensor all = Tensor::empty({world_.size()}, DType::u8);
  world_.all_gather(Tensor::from<std::uint8_t>({job_->done ? std::uint8_t{1} : std::uint8_t{0}}, {1}), all);
  const std::uint8_t* done = all.data<std::uint8_t>();
  if (!std::all_of(done, done + world_.size(), [](std::uint8_t d) { return d == 1; })) return false;
  complete();
  return true;
}

void CheckpointWriter::finish() {
  constexpr std::chrono::milliseconds longest_pause{20};
  std::chrono::milliseconds pause{1};
  while (!poll()) {
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, longest_pause);
  }
}

void CheckpointWriter::complete() {
  const std::unique_ptr<Job> job = std::move(job_);
  job->thread.join();
  const std::string partial = fmt::format("{}/{}{}", directory_, step_name(job->info.step), partial_suffix);
  try {
    const std::vector<std::string> reports = gather_texts(world_, job->report);
    std::vector<std::string> failures;
    for (const std::string& report : reports) failures.push_back(report[0] == failed ? report.substr(1) : "");
    agree_on_failures(failures);
    agree(world_, [&] {
      if (world_.rank() == 0) commit(job->info, reports);
    });
  } catch (const Failure&) {
    discard(partial);
    throw;
  }
}

void CheckpointWriter::commit(const CheckpointInfo& info, const std::vector<std::string>& reports) {
  const std::string partial = fmt::format("{}/{}{}", directory_, step_name(info.step), partial_suffix);
  Manifest manifest;
  manifest.info = info;
  for (int shard = 0; shard < world_.size(); ++shard) {
    const std::string_view report = reports[static_cast<std::size_t>(shard)];
    add_report(parse_report(report.substr(1), shard), &manifest);
  }
  check_coverage(manifest);
  check_shard_sizes(manifest, partial);  // sees that all ranks write to the same file system
  write_file_atomically(fmt::format("{}/{}", partial, manifest_file), manifest_text(manifest));
  publish_step(directory_, info.step, keep_);
}

void CheckpointWriter::discard(const std::string& partial) {
  std::error_code ignored;  // what stays is removed with the next leftovers
  if (world_.rank() == 0) fs::remove_all(partial, ignored);
}

}  // namespace hysparse
