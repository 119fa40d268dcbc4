/// Communicators are values that hide MPI (host tensors), NCCL (device tensors) and a local group of
/// one. Created eagerly in one declared order before the first step, destroyed before MPI_Finalize. Every rank
/// of the group calls the same operations in the same order. Reductions are sums in the tensor's dtype, in an
/// order fixed by the group's size.
///
/// Adjoints, for a loss that is the sum of the ranks' losses (docs/placement.md):
///   all_reduce <-> all_reduce;  all_gather <-> reduce_scatter;  all_to_all <-> all_to_all with the counts
///   swapped.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace hysparse {

/// Calls and payload bytes this rank put into one kind of collective of one group.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t bytes = 0;  ///< size of this rank's send buffer, summed

  friend bool operator==(const Traffic&, const Traffic&) = default;
};

/// Group -> operation -> calls and bytes, of all ranks together.
using TrafficTable = std::map<std::string, std::map<std::string, Traffic>>;

/// A transfer or collective under way; wait() before touching its tensors, and exactly once. Destroying one
/// unwaited is a bug.
class Pending {
 public:
  virtual ~Pending() = default;
  virtual void wait() = 0;
  /// Makes progress; true when complete. wait() is still needed then, and cheap.
  virtual bool test() = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual const std::string& name() const = 0;  ///< "dp", "ep", ... for messages and traffic
  virtual int rank() const = 0;                 ///< in this group
  virtual int size() const = 0;

  /// tensor <- sum over ranks, in place.
  virtual void all_reduce(const Tensor& tensor) = 0;
  /// out (n) <- this rank's part of the sum over ranks of in (size * n), flat. out may be this rank's part of
  /// in.
  virtual void reduce_scatter(const Tensor& in, const Tensor& out) = 0;
  /// out (size * n) <- the ranks' in (n), in order of rank. in may be this rank's part of out.
  virtual void all_gather(const Tensor& in, const Tensor& out) = 0;
  /// Rows of dim 0: sends send_rows[r] rows to rank r from `in` in order of rank, receives receive_rows[r] rows
  /// from rank r into `out`. Counts must agree pairwise; zero is fine.
  virtual void all_to_all(const Tensor& in, std::span<const std::int64_t> send_rows, const Tensor& out,
                          std::span<const std::int64_t> receive_rows) = 0;
  /// tensor <- rank root's.
  virtual void broadcast(const Tensor& tensor, int root) = 0;
  /// To and from another rank of the group; tag in [0, 32766], messages of one tag arrive in order.
  virtual std::unique_ptr<Pending> send(const Tensor& tensor, int to, int tag) = 0;
  virtual std::unique_ptr<Pending> receive(const Tensor& tensor, int from, int tag) = 0;
  virtual void barrier() = 0;

  /// reduce_scatter and all_gather that run while the caller does something else and now and then calls test:
  /// same contracts, bitwise the same results, counted under the same names. Several may be under way, between
  /// and beside other operations; every rank of the group starts them in the same order among these. Until
  /// wait, `in` must not be written and `out` neither read nor written. start_reduce_scatter needs scratch of
  /// (size - 1) / size of `in` until it is complete.
  virtual std::unique_ptr<Pending> start_reduce_scatter(const Tensor& in, const Tensor& out) = 0;
  virtual std::unique_ptr<Pending> start_all_gather(const Tensor& in, const Tensor& out) = 0;

  /// By operation: "all_reduce" -> {calls, bytes}. Counted by every implementation, a group of one included (as
  /// zero bytes: nothing leaves the rank).
  const std::map<std::string, Traffic>& traffic() const { return traffic_; }

 protected:
  void count(const std::string& operation, std::int64_t bytes) {
    Traffic& t = traffic_[operation];
    ++t.calls;
    t.bytes += bytes;
  }
  /// The contracts on sizes and dtypes above, as CHECKs that every implementation makes.
  void check_reduce_scatter(const Tensor& in, const Tensor& out) const;
  void check_all_gather(const Tensor& in, const Tensor& out) const;
  void check_all_to_all(const Tensor& in, std::span<const std::int64_t> send_rows, const Tensor& out,
                        std::span<const std::int64_t> receive_rows) const;

 private:
  std::map<std::string, Traffic> traffic_;
};

/// A group of this process alone: every collective is a copy or nothing.
std::unique_ptr<Communicator> local_communicator(std::string name);

}  // namespace hysparse
