#include "parallel/process_group.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>

#include <mpi.h>

#include "core/backend.h"
#include "parallel/cuda/device_communicator.h"
#include "parallel/deadline.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_exchange.h"
#include "parallel/whereabouts_board.h"

namespace hysparse {
namespace {

using detail::check_mpi;
using detail::print_problems;

/// How a rank's body ended; the values travel.
enum class Outcome : std::int32_t { done = 0, error = 1, failure = 2 };

struct Result {
  Outcome outcome = Outcome::done;
  std::vector<std::string> problems;
};

Result result_of(const std::function<void()>& body) {
  try {
    body();
    return {};
  } catch (const Error& e) {
    if (mpi_abandoned()) throw;
    return {Outcome::error, e.problems()};
  } catch (const std::exception& e) {
    if (mpi_abandoned()) throw;  // nothing can be agreed on any more
    return {Outcome::failure, {e.what()}};
  }
}

[[noreturn]] void throw_agreed(const Result& result) {
  if (result.outcome == Outcome::error) throw AgreedError(result.problems);
  throw AgreedFailure(fmt::format("{}", fmt::join(result.problems, "\n")));
}

/// Problems as bytes, each ended by a zero.
std::vector<std::uint8_t> pack(const std::vector<std::string>& problems) {
  std::vector<std::uint8_t> bytes;
  for (const std::string& p : problems) {
    bytes.insert(bytes.end(), p.begin(), p.end());
    bytes.push_back(0);
  }
  return bytes;
}

std::vector<std::string> unpack(const std::vector<std::uint8_t>& bytes) {
  std::vector<std::string> problems(1);
  for (const std::uint8_t b : bytes) {
    if (b == 0)
      problems.emplace_back();
    else
      problems.back().push_back(static_cast<char>(b));
  }
  problems.pop_back();
  return problems;
}

/// Seconds that MPI_Abort gets to end this process.
constexpr double seconds_to_abort = 3.0;

/// mpirun hands on what ranks print through pipes, and may drop what it has not read yet when it sees a rank
/// end with a status that is not 0: what was printed last gets there before that, and before MPI_Abort's own
/// lines.
constexpr auto time_to_print = std::chrono::milliseconds(200);

}  // namespace

bool is_agreed(const std::exception& e) {
  return dynamic_cast<const AgreedError*>(&e) != nullptr || dynamic_cast<const AgreedFailure*>(&e) != nullptr;
}

Runtime::Runtime(int* argc, char*** argv) : exceptions_at_start_(std::uncaught_exceptions()) {
  // What Open MPI, PMIx (srun) and PMI (MPICH, Intel) set for the ranks that they start.
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    const char* value = std::getenv(variable);
    if (value == nullptr) continue;
    started_ = true;
    set_rank_in_messages(std::atoi(value));  // until MPI says so
  }
  if (!started_) return;
  const detail::MeetingDeadline deadline("start of MPI");
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_FUNNELED) throw_failure("this MPI cannot run beside threads (MPI_THREAD_FUNNELED)");
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &world_), "MPI_Comm_size");
  set_rank_in_messages(rank_);
  MPI_Comm host = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(host, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(host, &local_ranks_), "MPI_Comm_size");
  board_ = std::make_unique<detail::Board>(host);
  check_mpi(MPI_Comm_free(&host), "MPI_Comm_free");
  if (world_ > 1) {
    std::vector<int> all(static_cast<std::size_t>(world_));
    std::iota(all.begin(), all.end(), 0);
    agreement_ = mpi_communicator("agreement", all);
  }
}

Runtime::~Runtime() {
  agreement_.reset();
  if (!started_ || mpi_abandoned() || std::uncaught_exceptions() > exceptions_at_start_) return;
  const detail::MeetingDeadline deadline("end of MPI");
  {
    const detail::InOperation here(detail::ShortName("end of MPI"), {});
    MPI_Barrier(MPI_COMM_WORLD);  // while the board is there to tell who is late
  }
  board_.reset();
  MPI_Finalize();
}

std::unique_ptr<Communicator> Runtime::communicator(std::string name, const std::vector<int>& ranks) {
  if (ranks.size() == 1) {
    HYSPARSE_CHECK(ranks[0] == rank_, "group {} of rank {}", name, ranks[0]);
    return local_communicator(std::move(name));
  }
  return mpi_communicator(std::move(name), ranks);
}

void Runtime::agree(const std::function<void()>& body) {
  Result result = result_of(body);
  if (world_ > 1) {
    const Tensor own = Tensor::from<std::int32_t>({static_cast<std::int32_t>(result.outcome)}, {1});
    const Tensor outcomes = Tensor::empty({world_}, DType::i32);
    agreement_->all_gather(own, outcomes);
    int lowest = 0;
    while (lowest < world_ && outcomes.data<std::int32_t>()[lowest] == 0) ++lowest;
    if (lowest == world_) return;
    result.outcome = static_cast<Outcome>(outcomes.data<std::int32_t>()[lowest]);
    if (result.outcome == Outcome::failure && lowest == rank_) {
      result.problems.front().insert(0, fmt::format("rank {}: ", rank_));
    }
    std::vector<std::uint8_t> bytes = pack(result.problems);
    const Tensor length = Tensor::from<std::int64_t>({static_cast<std::int64_t>(bytes.size())}, {1});
    agreement_->broadcast(length, lowest);
    bytes.resize(static_cast<std::size_t>(length.data<std::int64_t>()[0]));
    const Tensor text = Tensor::from<std::uint8_t>(bytes, {static_cast<std::int64_t>(bytes.size())});
    agreement_->broadcast(text, lowest);
    result.problems = unpack(text.to_vector<std::uint8_t>());
  }
  if (result.outcome != Outcome::done) throw_agreed(result);
}

int Runtime::run(const std::function<int()>& body) {
  try {
    return body();
  } catch (const AgreedError& e) {
    return end_agreed(2, e.what());
  } catch (const AgreedFailure& e) {
    return end_agreed(1, e.what());
  } catch (const std::exception& e) {
    const int status = dynamic_cast<const Error*>(&e) != nullptr ? 2 : 1;
    const std::string text = e.what(), name = fmt::format("rank {}: ", rank_);
    const bool names_rank = world_ == 1 || status == 2 || text.starts_with(name);
    print_problems(names_rank ? text : name + text);
    if (world_ == 1) return status;
    // Others whose wait is over now get to say so.
    if (dynamic_cast<const CollectiveTimeout*>(&e) != nullptr)
      std::this_thread::sleep_for(detail::grace_after_timeout);
    end_all(status);
  }
}

int Runtime::end_agreed(int status, const std::string& message) {
  if (rank_ == 0) {
    print_problems(message);
    if (mpi_abandoned()) end_all(status);
    if (started_) std::this_thread::sleep_for(time_to_print);
  } else if (mpi_abandoned()) {  // the ranks cannot meet at the end of MPI: rank 0 ends this one
    std::this_thread::sleep_for(std::chrono::duration<double>(2 * seconds_to_abort));
    std::_Exit(status);
  }
  return status;
}

void Runtime::abort(int status, const std::string& message) {
  print_problems(message);
  end_all(status);
}

void Runtime::end_all(int status) {
  if (started_) {
    std::this_thread::sleep_for(time_to_print);
    const detail::Deadline deadline(seconds_to_abort, [status] { std::_Exit(status); });
    MPI_Abort(MPI_COMM_WORLD, status);
  }
  std::_Exit(status);
}

ProcessGroups::ProcessGroups(Runtime& runtime, const Mesh& mesh_of_run, Device device)
    : mesh(mesh_of_run), rank(runtime.rank()) {
  HYSPARSE_CHECK(mesh.world() == runtime.world(), "mesh of {}, {} ranks", mesh.world(), runtime.world());
  const auto create = [&](Axis a) {
    return runtime.communicator(std::string(axis_name(a)), mesh.group(a, rank));
  };
  const auto create_for_tensors = [&](Axis a) {
    std::unique_ptr<Communicator> host = create(a);
    if constexpr (cuda_build) {
      if (!device.is_cpu() && host->size() > 1) return device_communicator(std::move(host));
    }
    HYSPARSE_CHECK(cuda_build || device.is_cpu(), "device {}", device.str());
    return host;
  };
  world = create(Axis::world);
  pp = create_for_tensors(Axis::pp);
  dp = create(Axis::dp);
  cp = create(Axis::cp);
  tp = create_for_tensors(Axis::tp);
  dp_cp = create_for_tensors(Axis::dp_cp);
  edp = create_for_tensors(Axis::edp);
  ep = create_for_tensors(Axis::ep);
  etp = create_for_tensors(Axis::etp);
  experts = create_for_tensors(Axis::ep_etp);
  stage = create(Axis::stage);
}

Communicator& ProcessGroups::axis(Axis axis) const {
  switch (axis) {
    case Axis::pp:
      return *pp;
    case Axis::dp:
      return *dp;
    case Axis::cp:
      return *cp;
    case Axis::tp:
      return *tp;
    case Axis::dp_cp:
      return *dp_cp;
    case Axis::edp:
      return *edp;
    case Axis::ep:
      return *ep;
    case Axis::etp:
      return *etp;
    case Axis::ep_etp:
      return *experts;
    case Axis::stage:
      return *stage;
    case Axis::world:
      return *world;
  }
  HYSPARSE_CHECK(false, "axis {}", static_cast<int>(axis));
  return *world;
}

}  // namespace hysparse
