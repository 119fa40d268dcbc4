#include "checkpoint/save_job.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "checkpoint/manifest.h"
#include "checkpoint/region.h"
#include "checkpoint/shard.h"
#include "checkpoint/step_directories.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t max_report_bytes = std::int64_t{1} << 30;
constexpr std::chrono::milliseconds longest_pause{50};

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

std::int64_t room_of(const Tensor& data) {
  if (!data.defined()) return 0;
  return (data.bytes() + Storage::alignment - 1) / Storage::alignment * Storage::alignment;
}

void copy_into(const Tensor& memory, std::vector<Piece>& pieces) {
  std::int64_t at = 0;
  for (Piece& piece : pieces) {
    if (!piece.data.defined()) continue;
    const Tensor copy = memory.part(at, piece.data.shape(), piece.data.dtype());
    copy.copy_from(piece.data);
    at += room_of(piece.data);
    piece.data = copy;
  }
}

std::string SavePlace::partial() const {
  return fmt::format("{}/{}{}", checkpoints, step_name(step), partial_suffix);
}

SaveJob::SaveJob(SavePlace place, CheckpointInfo info, std::vector<Piece> pieces, Tensor copy)
    : place_(std::move(place)), info_(std::move(info)), pieces_(std::move(pieces)), copy_(std::move(copy)) {
  thread_ = std::thread([this] { run(); });
}

SaveJob::~SaveJob() {
  give_up();
}

void SaveJob::give_up() {
  given_up_ = true;
  if (thread_.joinable()) thread_.join();
}

void SaveJob::await_copy() {
  copied_.wait(false);
}

void SaveJob::run() noexcept {
  State end = State::failed;
  try {
    if (copy_.defined()) copy_into(copy_, pieces_);
    copied_ = true;
    copied_.notify_all();
    write_shard();
    if (place_.rank == 0) {
      wait_for_reports();
      commit();
    }
    end = State::done;
  } catch (const std::exception& error) {
    message_ = error.what();
    if (message_.empty()) message_ = "failed";
  }
  pieces_.clear();
  copied_ = true;
  copied_.notify_all();
  state_ = end;
}

void SaveJob::check_not_given_up() const {
  if (given_up_) throw_failure("{}: given up", place_.partial());
}

void SaveJob::write_shard() {
  const std::string partial = place_.partial();
  ShardPlan plan =
      create_shard(fmt::format("{}/{}", partial, shard_name(place_.rank)), pieces_, place_.step, place_.rank);
  const FileDigest digest = fill_shard(plan, pieces_, [this] { check_not_given_up(); });
  pieces_.clear();
  // By rename: rank 0 looks for it. It need not outlive a loss of power: the manifest will say the same.
  const std::string report = fmt::format("{}/{}", partial, report_name(place_.rank));
  write_text_file(report + ".new", report_text({digest, std::move(plan.tensors)}));
  std::error_code error;
  fs::rename(report + ".new", report, error);
  if (error) throw_failure("{}: cannot be given its name: {}", report, error.message());
}

void SaveJob::wait_for_reports() {
  std::chrono::milliseconds pause{1};
  for (int shard = 0; shard < place_.ranks; ++shard) {
    const std::string path = fmt::format("{}/{}", place_.partial(), report_name(shard));
    std::error_code ignored;
    while (!fs::exists(path, ignored)) {
      check_not_given_up();
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, longest_pause);
    }
  }
}

void SaveJob::commit() {
  const std::string partial = place_.partial();
  Manifest manifest;
  manifest.info = info_;
  for (int shard = 0; shard < place_.ranks; ++shard) {
    const std::string path = fmt::format("{}/{}", partial, report_name(shard));
    add_report(parse_report(read_text_file(path, max_report_bytes), shard), &manifest);
    std::error_code error;
    fs::remove(path, error);
    if (error) throw_failure("{}: cannot be removed: {}", path, error.message());
  }
  check_coverage(manifest);
  check_shard_sizes(manifest, partial);
  check_not_given_up();
  write_file_atomically(fmt::format("{}/{}", partial, manifest_file), manifest_text(manifest));
  publish_step(place_.checkpoints, place_.step, place_.keep);
}

}  // namespace hysparse
