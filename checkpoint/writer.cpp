#include "checkpoint/writer.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "checkpoint/agreement.h"
#include "checkpoint/save_job.h"
#include "checkpoint/step_directories.h"
#include "core/error.h"

namespace hysparse {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

bool any_on_gpu(const std::vector<Piece>& pieces) {
  return std::any_of(pieces.begin(), pieces.end(),
                     [](const Piece& piece) { return piece.data.defined() && !piece.data.device().is_cpu(); });
}

}  // namespace

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
  require_shared_directory(world_, directory_);
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::reserve_copy(const std::vector<Piece>& pieces) {
  std::int64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += room_of(piece.data);
  if (bytes == 0 || (copy_.defined() && copy_.numel() >= bytes)) return;
  copy_ = {};  // before the new one
  copy_ =
      any_on_gpu(pieces) ? Tensor::empty_page_locked({bytes}, DType::u8) : Tensor::empty({bytes}, DType::u8);
}

void CheckpointWriter::save(const CheckpointInfo& info, std::vector<Piece> pieces, bool async) {
  const auto start = Clock::now();
  finish();
  seconds_waited_ = std::chrono::duration<double>(Clock::now() - start).count();
  HYSPARSE_CHECK(info.step >= 0, "step {}", info.step);
  const SavePlace place{directory_, info.step, world_.rank(), world_.size(), keep_};
  agree(world_, [&] {
    if (world_.rank() != 0) return;
    remove_leftovers(run_directory_);
    std::error_code error;
    fs::create_directory(place.partial(), error);
    if (error) throw_failure("{}: cannot make the directory: {}", place.partial(), error.message());
  });
  const bool on_gpu = any_on_gpu(pieces);
  if (async || on_gpu) reserve_copy(pieces);
  if (on_gpu) copy_into(copy_, pieces);
  job_ = std::make_unique<SaveJob>(place, info, std::move(pieces), async && !on_gpu ? copy_ : Tensor());
  if (!async) finish();
}

void CheckpointWriter::await_copy() {
  if (job_ != nullptr) job_->await_copy();
}

bool CheckpointWriter::poll() {
  if (job_ == nullptr) return true;
  const Tensor all = Tensor::empty({world_.size()}, DType::u8);
  const SaveJob::State own = job_->state();
  world_.all_gather(Tensor::from<std::uint8_t>({static_cast<std::uint8_t>(own)}, {1}), all);
  const auto is = [&](SaveJob::State state) {
    return [state](std::uint8_t other) { return other == static_cast<std::uint8_t>(state); };
  };
  const std::uint8_t* begin = all.data<std::uint8_t>();
  if (std::any_of(begin, begin + world_.size(), is(SaveJob::State::failed))) fail(own);
  if (!std::all_of(begin, begin + world_.size(), is(SaveJob::State::done))) return false;
  job_.reset();
  return true;
}

void CheckpointWriter::fail(SaveJob::State own) {
  job_->give_up();
  const std::unique_ptr<SaveJob> job = std::move(job_);
  const std::string partial = job->place().partial();
  // Of those that had failed by themselves: the others have only given up since.
  const std::vector<std::string> messages =
      gather_texts(world_, own == SaveJob::State::failed ? job->message() : "");
  std::error_code ignored;  // what stays is removed with the next leftovers
  if (world_.rank() == 0) fs::remove_all(partial, ignored);
  world_.barrier();
  agree_on_failures(messages);
  HYSPARSE_CHECK(false, "a failed save without a message");
}

void CheckpointWriter::finish() {
  constexpr std::chrono::milliseconds longest_pause{20};
  std::chrono::milliseconds pause{1};
  while (!poll()) {
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, longest_pause);
  }
}

}  // namespace hysparse
