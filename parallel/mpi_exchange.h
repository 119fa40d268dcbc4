/// Transfers under way on one MPI communicator, waited for with a deadline. Private to parallel/ (names MPI
/// types).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <mpi.h>

#include "core/tensor.h"
#include "parallel/whereabouts.h"

namespace hysparse::detail {

/// Throws Failure with MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* what);

/// Lets MPI work on transfers under way, for who waits for something else: their peers may need it. Nothing
/// once transfers were given up. On the main thread.
void progress_mpi();

/// As set by set_collective_timeout.
double collective_timeout();

/// "rank 0: <operation> in step 12, layer 3 has waited 600.0 s for <waiting>, longer than ...", then, unless
/// another rank of this host has said so, one line for each rank of this host: what it is at.
std::string timeout_message(const std::string& operation, double seconds, const std::string& waiting);

/// Other ranks whose wait ends at the same moment have this long to say so before the run is ended.
inline constexpr auto grace_after_timeout = std::chrono::seconds(1);

/// To stderr, after what stdout holds.
void print_problems(const std::string& text);

/// An MPI communicator and how messages name it. Freed with the last owner, unless transfers were given up.
struct MpiGroup {
  MpiGroup() = default;
  ~MpiGroup();
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  MPI_Comm comm = MPI_COMM_NULL;
  std::string name;
  ShortName short_name;
  std::vector<int> world_ranks;  // by rank in the group
  int rank = 0;
  std::int64_t piece_bytes = 0;
};

/// Starts sends and receives, then waits for all of them. Move-only. When it goes away with transfers under way
/// (a timeout, an error, unwinding), they and the tensors they use are never freed: MPI may still write to
/// them.
class Exchange {
 public:
  Exchange(std::shared_ptr<MpiGroup> group, const char* operation);
  ~Exchange();
  Exchange(Exchange&&) noexcept = default;
  Exchange& operator=(Exchange&&) = delete;

  /// Tensors to keep alive while transfers are under way.
  void keep(const Tensor& tensor) { state_->kept.push_back(tensor); }
  /// Messages longer than the group's piece_bytes go in pieces; empty ones are left out on both sides.
  void send(int to, const void* data, std::int64_t bytes, int tag = 0);
  void receive(int from, void* data, std::int64_t bytes, int tag = 0);
  void broadcast(int root, void* data, std::int64_t bytes);
  void barrier();
  /// Polls once: true when all is done (also after wait).
  bool test();
  /// Polls until all is done. Throws Failure naming rank, operation, group and the ranks that are waited for
  /// when nothing completes for longer than the collective timeout.
  void wait();

 private:
  struct State {
    std::vector<MPI_Request> requests;
    std::vector<int> peers;  // by request: group rank, -1 for a collective
    std::size_t done = 0;    // requests before this one are complete
    std::vector<Tensor> kept;
  };
  MPI_Request* add(int peer);
  /// True when all is done; else up to the first request that is not.
  bool advance();
  void poll();
  void clear();
  [[noreturn]] void fail(double seconds);

  std::shared_ptr<MpiGroup> group_;
  const char* operation_;
  std::unique_ptr<State> state_;
};

}  // namespace hysparse::detail
