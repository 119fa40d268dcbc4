#include "parallel/mpi_communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "parallel/deadline.h"
#include "parallel/mpi_exchange.h"
#include "parallel/mpi_pending.h"
#include "parallel/ordered_sum.h"

namespace hysparse {
namespace {

using detail::check_mpi;
using detail::Exchange;
using detail::MpiGroup;
using detail::MpiPending;

constexpr int highest_tag = 32766;  // MPI promises 32767; 0 is the collectives'

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiGroup> group, const MpiTuning& tuning)
      : group_(std::move(group)), tuning_(tuning) {}

  const std::string& name() const override { return group_->name; }
  int rank() const override { return group_->rank; }
  int size() const override { return static_cast<int>(group_->world_ranks.size()); }

  void all_reduce(const Tensor& tensor) override {
    count("all_reduce", tensor.bytes());
    if (tensor.numel() == 0) return;
    if (tensor.bytes() <= tuning_.small_bytes) return all_reduce_small(tensor);
    const std::vector<std::int64_t> parts = even_parts(tensor.numel());
    reduce_parts("all_reduce", tensor, parts, part(tensor, parts, rank()));
    start_gather("all_reduce", tensor, parts).wait();
  }

  void reduce_scatter(const Tensor& in, const Tensor& out) override {
    check_reduce_scatter(in, out);
    count("reduce_scatter", in.bytes());
    if (in.numel() > 0) reduce_parts("reduce_scatter", in, even_parts(in.numel()), host(out));
  }

  void all_gather(const Tensor& in, const Tensor& out) override {
    check_all_gather(in, out);
    count("all_gather", in.bytes());
    if (in.numel() == 0) return;
    const std::vector<std::int64_t> parts = even_parts(out.numel());
    char* own = part(out, parts, rank());
    if (own != host(in)) std::memcpy(own, host(in), static_cast<std::size_t>(in.bytes()));
    start_gather("all_gather", out, parts).wait();
  }

  void all_to_all(const Tensor& in, std::span<const std::int64_t> send_rows, const Tensor& out,
                  std::span<const std::int64_t> receive_rows) override {
    check_all_to_all(in, send_rows, out, receive_rows);
    const auto me = static_cast<std::size_t>(rank());
    HYSPARSE_CHECK(send_rows[me] == receive_rows[me], "{}: {} and {} rows", name(), send_rows[me],
                   receive_rows[me]);
    count("all_to_all", in.bytes());
    const std::vector<std::int64_t> sends = row_offsets(in, send_rows),
                                    receives = row_offsets(out, receive_rows);
    Exchange exchange = begin("all_to_all", {in, out});
    for (int step = 1; step < size(); ++step) {
      const auto from = static_cast<std::size_t>(before(step)), to = static_cast<std::size_t>(after(step));
      exchange.receive(before(step), host(out) + receives[from], receives[from + 1] - receives[from]);
      exchange.send(after(step), host(in) + sends[to], sends[to + 1] - sends[to]);
    }
    if (sends[me + 1] > sends[me]) {
      std::memcpy(host(out) + receives[me], host(in) + sends[me],
                  static_cast<std::size_t>(sends[me + 1] - sends[me]));
    }
    exchange.wait();
  }

  void broadcast(const Tensor& tensor, int root) override {
    HYSPARSE_CHECK(root >= 0 && root < size(), "{}: root {} of {}", name(), root, size());
    count("broadcast", rank() == root ? tensor.bytes() : 0);
    Exchange exchange = begin("broadcast", {tensor});
    exchange.broadcast(root, host(tensor), tensor.bytes());
    exchange.wait();
  }

  std::unique_ptr<Pending> send(const Tensor& tensor, int to, int tag) override {
    check_peer(to, tag);
    count("send", tensor.bytes());
    Exchange exchange = begin("send", {tensor});
    exchange.send(to, host(tensor), tensor.bytes(), 1 + tag);
    return std::make_unique<MpiPending>(std::move(exchange));
  }

  std::unique_ptr<Pending> receive(const Tensor& tensor, int from, int tag) override {
    check_peer(from, tag);
    count("receive", 0);
    Exchange exchange = begin("receive", {tensor});
    exchange.receive(from, host(tensor), tensor.bytes(), 1 + tag);
    return std::make_unique<MpiPending>(std::move(exchange));
  }

  void barrier() override {
    count("barrier", 0);
    Exchange exchange = begin("barrier", {});
    exchange.barrier();
    exchange.wait();
  }

  std::unique_ptr<Pending> start_reduce_scatter(const Tensor& in, const Tensor& out) override {
    check_reduce_scatter(in, out);
    count("reduce_scatter", in.bytes());
    const std::int64_t bytes = out.bytes();
    Exchange exchange = begin("reduce_scatter", {in, out});
    const char* own = host(in) + rank() * bytes;
    std::vector<Tensor> parts(static_cast<std::size_t>(size()));  // of the others, by rank
    for (int step = 1; step < size(); ++step) {
      // Each of its own: memory of moderate size is kept when it is freed.
      Tensor& theirs = parts[static_cast<std::size_t>(before(step))];
      theirs = Tensor::empty(out.shape(), out.dtype());
      exchange.keep(theirs);
      exchange.receive(before(step), host(theirs), bytes);
      exchange.send(after(step), host(in) + after(step) * bytes, bytes);
    }
    return std::make_unique<MpiPending>(std::move(exchange), [in, out, own, parts = std::move(parts)] {
      std::vector<const void*> sources;
      for (const Tensor& part : parts) sources.push_back(part.defined() ? part.raw() : own);
      cpu::ordered_sum(out.dtype(), sources, out.numel(), host(out));
    });
  }

  std::unique_ptr<Pending> start_all_gather(const Tensor& in, const Tensor& out) override {
    check_all_gather(in, out);
    count("all_gather", in.bytes());
    const std::vector<std::int64_t> parts = even_parts(out.numel());
    char* own = part(out, parts, rank());
    if (own != host(in) && in.numel() > 0) std::memcpy(own, host(in), static_cast<std::size_t>(in.bytes()));
    return std::make_unique<MpiPending>(start_gather("all_gather", out, parts));
  }

 private:
  static char* host(const Tensor& t) {
    HYSPARSE_CHECK(t.device().is_cpu(), "MPI moves host tensors, not {}", t.device().str());
    return static_cast<char*>(t.raw());
  }
  /// The ranks to send to and receive from at a step in [1, size): everyone has another partner at each.
  int after(int step) const { return (rank() + step) % size(); }
  int before(int step) const { return (rank() + size() - step) % size(); }

  void check_peer(int peer, int tag) const {
    HYSPARSE_CHECK(peer >= 0 && peer < size() && peer != rank() && tag >= 0 && tag <= highest_tag,
                   "{}: rank {} of {}, peer {}, tag {}", name(), rank(), size(), peer, tag);
  }

  Exchange begin(const char* operation, std::initializer_list<Tensor> tensors) const {
    Exchange exchange(group_, operation);
    for (const Tensor& t : tensors) exchange.keep(t);
    return exchange;
  }

  /// Flat elements [parts[r], parts[r + 1]) are rank r's.
  std::vector<std::int64_t> even_parts(std::int64_t numel) const {
    std::vector<std::int64_t> parts;
    for (int r = 0; r <= size(); ++r)
      parts.push_back(numel / size() * r + std::min<std::int64_t>(numel % size(), r));
    return parts;
  }
  static char* part(const Tensor& t, const std::vector<std::int64_t>& parts, int r) {
    return host(t) + parts[static_cast<std::size_t>(r)] * dtype_size(t.dtype());
  }
  /// In bytes; size + 1 of them.
  static std::vector<std::int64_t> row_offsets(const Tensor& t, std::span<const std::int64_t> rows) {
    std::int64_t row = dtype_size(t.dtype());
    for (int d = 1; d < t.rank(); ++d) row *= t.dim(d);
    std::vector<std::int64_t> offsets{0};
    for (const std::int64_t r : rows) offsets.push_back(offsets.back() + r * row);
    return offsets;
  }

  void all_reduce_small(const Tensor& tensor) {
    const MemoryScope scope(MemoryPurpose::communication);
    const Tensor scratch = Tensor::empty({size() * tensor.bytes()}, DType::u8);
    Exchange exchange = begin("all_reduce", {tensor, scratch});
    std::vector<const void*> sources(static_cast<std::size_t>(size()), host(tensor));
    for (int step = 1; step < size(); ++step) {
      char* slot = host(scratch) + before(step) * tensor.bytes();
      sources[static_cast<std::size_t>(before(step))] = slot;
      exchange.receive(before(step), slot, tensor.bytes());
      exchange.send(after(step), host(tensor), tensor.bytes());
    }
    exchange.wait();
    cpu::ordered_sum(tensor.dtype(), sources, tensor.numel(), host(tensor));
  }

  /// out <- the sum over ranks of this rank's part of `in`; out may be that part.
  void reduce_parts(const char* operation, const Tensor& in, const std::vector<std::int64_t>& parts,
                    char* out) {
    const MemoryScope scope(MemoryPurpose::communication);
    const std::int64_t element = dtype_size(in.dtype());
    const std::int64_t peers = size() - 1;
    const std::int64_t longest = (in.numel() + size() - 1) / size();
    const std::int64_t room =
        std::max<std::int64_t>(1, tuning_.scratch_bytes / (2 * peers * Storage::alignment));
    const std::int64_t chunk = std::min(longest, room * (Storage::alignment / element));
    const std::int64_t slot_bytes =
        (chunk * element + Storage::alignment - 1) / Storage::alignment * Storage::alignment;
    const Tensor scratch = Tensor::empty({2 * peers * slot_bytes}, DType::u8);

    const auto slot = [&](std::int64_t number, int step) {
      return host(scratch) + ((number % 2) * peers + step - 1) * slot_bytes;
    };
    // Elements of rank r's part in chunk `number`.
    const auto chunk_range = [&](std::int64_t number, int r) {
      const auto i = static_cast<std::size_t>(r);
      const std::int64_t begin = std::min(parts[i] + number * chunk, parts[i + 1]);
      return std::pair{begin, std::min(begin + chunk, parts[i + 1])};
    };
    const auto start = [&](std::int64_t number) {
      Exchange exchange = this->begin(operation, {in, scratch});
      const auto [own_begin, own_end] = chunk_range(number, rank());
      for (int step = 1; step < size(); ++step) {
        const auto [begin, end] = chunk_range(number, after(step));
        exchange.receive(before(step), slot(number, step), (own_end - own_begin) * element);
        exchange.send(after(step), host(in) + begin * element, (end - begin) * element);
      }
      return exchange;
    };

    const std::int64_t chunks = (longest + chunk - 1) / chunk;
    std::vector<const void*> sources(static_cast<std::size_t>(size()));
    auto current = std::make_unique<Exchange>(start(0));
    for (std::int64_t number = 0; number < chunks; ++number) {
      std::unique_ptr<Exchange> next;
      if (number + 1 < chunks) next = std::make_unique<Exchange>(start(number + 1));
      current->wait();
      const auto [begin, end] = chunk_range(number, rank());
      sources[static_cast<std::size_t>(rank())] = host(in) + begin * element;
      for (int step = 1; step < size(); ++step)
        sources[static_cast<std::size_t>(before(step))] = slot(number, step);
      cpu::ordered_sum(in.dtype(), sources, end - begin, out + number * chunk * element);
      current = std::move(next);
    }
  }

  /// tensor's parts <- each rank's own part of it.
  Exchange start_gather(const char* operation, const Tensor& tensor,
                        const std::vector<std::int64_t>& parts) const {
    const std::int64_t element = dtype_size(tensor.dtype());
    const auto bytes = [&](int r) {
      return (parts[static_cast<std::size_t>(r) + 1] - parts[static_cast<std::size_t>(r)]) * element;
    };
    Exchange exchange = begin(operation, {tensor});
    for (int step = 1; step < size(); ++step) {
      exchange.receive(before(step), part(tensor, parts, before(step)), bytes(before(step)));
      exchange.send(after(step), part(tensor, parts, rank()), bytes(rank()));
    }
    return exchange;
  }

  std::shared_ptr<MpiGroup> group_;
  MpiTuning tuning_;
};

/// Frees an MPI_Group at the end of its scope.
struct GroupHandle {
  MPI_Group group = MPI_GROUP_NULL;
  ~GroupHandle() {
    if (group != MPI_GROUP_NULL) MPI_Group_free(&group);
  }
};

}  // namespace

std::unique_ptr<Communicator> mpi_communicator(std::string name, const std::vector<int>& ranks,
                                               const MpiTuning& tuning) {
  auto result = std::make_shared<MpiGroup>();
  result->name = std::move(name);
  result->short_name = detail::ShortName(result->name);
  result->world_ranks = ranks;
  result->piece_bytes = tuning.piece_bytes;
  const detail::MeetingDeadline deadline(fmt::format("creation of group {}", result->name));
  const detail::InOperation here(detail::ShortName("creation"), result->short_name);
  GroupHandle world, group;
  check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &world.group), "MPI_Comm_group");
  check_mpi(MPI_Group_incl(world.group, static_cast<int>(ranks.size()), ranks.data(), &group.group),
            "MPI_Group_incl");
  check_mpi(MPI_Comm_create_group(MPI_COMM_WORLD, group.group, 0, &result->comm), "MPI_Comm_create_group");
  HYSPARSE_CHECK(result->comm != MPI_COMM_NULL, "this rank is not in group {}", result->name);
  check_mpi(MPI_Comm_set_errhandler(result->comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(result->comm, &result->rank), "MPI_Comm_rank");
  return std::make_unique<MpiCommunicator>(std::move(result), tuning);
}

}  // namespace hysparse
