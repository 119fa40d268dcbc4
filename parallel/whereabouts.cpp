#include "parallel/whereabouts.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <memory>
#include <new>

#include <unistd.h>

#include "core/error.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_exchange.h"
#include "parallel/whereabouts_board.h"

namespace hysparse {
namespace {

using detail::ShortName;

/// A ShortName that other processes read; they may see half of an update, never for long.
struct SharedName {
  std::atomic<std::uint64_t> words[2] = {};

  void store(const ShortName& name) {
    for (int i = 0; i < 2; ++i) words[i].store(name.words[i], std::memory_order_relaxed);
  }
  std::string text() const {
    char letters[2 * sizeof(std::uint64_t) + 1] = {};
    for (std::size_t i = 0; i < 2; ++i) {
      const std::uint64_t word = words[i].load(std::memory_order_relaxed);
      std::memcpy(letters + i * sizeof word, &word, sizeof word);
    }
    return letters;
  }
};

/// What one rank is at. Written by that rank alone, read by all.
struct alignas(64) Place {
  std::atomic<std::int64_t> rank{0}, process{0};
  std::atomic<std::int64_t> step{-1}, layer{-1};
  std::atomic<std::int64_t> since{0};  // ns of the steady clock, which is one for the host: the last change of
  SharedName operation, group;         // these; no operation: computing
  std::atomic<bool> reported{false};   // of the first place alone: the host's
};
static_assert(std::atomic<std::int64_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "atomics in shared memory");

/// MPI may not align it; every process maps it at a page's beginning, so that all find the same place.
constexpr std::size_t place_bytes = sizeof(Place) + alignof(Place);
void* aligned(void* memory) {
  std::size_t space = place_bytes;
  return std::align(alignof(Place), sizeof(Place), memory, space);
}

Place alone;
std::atomic<Place*> own{&alone};
std::vector<Place*> places{&alone};  // of this host; changes with the board, before and after everything else

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Place& own_place() {
  return *own.load(std::memory_order_relaxed);
}

/// " (process 1234 is stopped)", " (process 1234 has ended)", or nothing.
std::string process_problem(std::int64_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');  // "1234 (name) T ..."
  if (name_end == std::string::npos || name_end + 2 >= line.size()) return "";
  const char state = line[name_end + 2];
  if (state == 'T' || state == 't') return fmt::format(" (process {} is stopped)", process);
  if (state == 'Z' || state == 'X') return fmt::format(" (process {} has ended)", process);
  return "";
}

std::string step_and_layer(const Place& place) {
  const std::int64_t step = place.step.load(std::memory_order_relaxed),
                     layer = place.layer.load(std::memory_order_relaxed);
  std::string text;
  if (step >= 0) text += fmt::format("step {}", step);
  if (layer >= 0) text += fmt::format("{}layer {}", text.empty() ? "" : ", ", layer);
  return text;
}

std::string line_of(const Place& place) {
  const std::string operation = place.operation.text(), group = place.group.text();
  std::string where = step_and_layer(place);
  if (!where.empty()) where += ", ";
  std::string doing = "computing";
  if (!operation.empty()) doing = fmt::format("in {}{}{}", operation, group.empty() ? "" : " of group ", group);
  const double seconds = static_cast<double>(now() - place.since.load(std::memory_order_relaxed)) * 1e-9;
  return fmt::format("rank {}: {}{} for {:.1f} s{}", place.rank.load(std::memory_order_relaxed), where, doing,
                     std::max(seconds, 0.0), process_problem(place.process.load(std::memory_order_relaxed)));
}

}  // namespace

void at_step(std::int64_t step) {
  own_place().step.store(step, std::memory_order_relaxed);
}

void at_layer(std::int64_t layer) {
  own_place().layer.store(layer, std::memory_order_relaxed);
}

namespace detail {

ShortName::ShortName(std::string_view text) {
  std::memcpy(words, text.data(), std::min(text.size(), sizeof words));
}

InOperation::InOperation(const ShortName& operation, const ShortName& group)
    : exceptions_at_start_(std::uncaught_exceptions()) {
  Place& place = own_place();
  place.group.store(group);
  place.operation.store(operation);
  place.since.store(now(), std::memory_order_relaxed);
}

InOperation::~InOperation() {
  if (std::uncaught_exceptions() > exceptions_at_start_) return;
  Place& place = own_place();
  place.operation.store(ShortName());
  place.since.store(now(), std::memory_order_relaxed);
}

Board::Board(MPI_Comm host) {
  int rank = 0, size = 0;
  check_mpi(MPI_Comm_rank(host, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(host, &size), "MPI_Comm_size");
  void* memory = nullptr;
  check_mpi(MPI_Win_allocate_shared(place_bytes, 1, MPI_INFO_NULL, host, &memory, &window_),
            "MPI_Win_allocate_shared");
  auto* place = new (aligned(memory)) Place;
  place->rank = rank_in_messages();
  place->process = getpid();
  place->since = now();
  check_mpi(MPI_Barrier(host), "MPI_Barrier");  // every place is there
  places.clear();
  for (int r = 0; r < size; ++r) {
    MPI_Aint bytes = 0;
    int unit = 0;
    check_mpi(MPI_Win_shared_query(window_, r, &bytes, &unit, &memory), "MPI_Win_shared_query");
    places.push_back(static_cast<Place*>(aligned(memory)));
  }
  own = place;
}

Board::~Board() {
  if (mpi_abandoned() || std::uncaught_exceptions() > 0) return;  // the others do not come
  own = &alone;
  places.assign(1, &alone);
  MPI_Win_free(&window_);
}

std::string own_whereabouts() {
  return step_and_layer(own_place());
}

std::vector<std::string> whereabouts_of_host() {
  std::vector<std::string> lines;
  for (const Place* place : places) {
    if (place != &alone) lines.push_back(line_of(*place));
  }
  return lines;
}

bool first_to_report() {
  return !places.front()->reported.exchange(true);
}

}  // namespace detail
}  // namespace hysparse
