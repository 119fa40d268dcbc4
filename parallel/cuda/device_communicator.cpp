#include "parallel/cuda/device_communicator.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "core/cuda/context.h"
#include "core/cuda/error.h"
#include "core/cuda/event.h"
#include "parallel/cuda/collective_watch.h"
#include "parallel/deadline.h"
#include "parallel/mpi_exchange.h"

namespace hysparse {
namespace {

using cuda::Event;

void check_nccl(ncclResult_t result, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  throw_failure("rank {}: NCCL: {} from {} ({})", rank_in_messages(), ncclGetErrorString(result), what,
                ncclGetLastError(nullptr));
}

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return ncclFloat64;
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    default:
      break;
  }
  HYSPARSE_CHECK(dtype_size(dtype) == 1, "no NCCL type for {}", dtype_name(dtype));
  return ncclUint8;
}

cudaStream_t compute_stream() {
  return static_cast<cudaStream_t>(cuda::current_stream().native);
}

/// A collective on the side stream.
class PendingCollective final : public Pending {
 public:
  PendingCollective(Tensor in, Tensor out) : in_(std::move(in)), out_(std::move(out)) {}
  ~PendingCollective() override {
    if (waited_) return;
    try {  // unwinding: the tensors' memory goes back in the order of the compute stream
      done_.hold(compute_stream());
    } catch (const std::exception&) {  // the GPU is lost
    }
  }
  void record(cudaStream_t side) { done_.record(side); }
  void wait() override {
    HYSPARSE_CHECK(!waited_);
    waited_ = true;
    done_.hold(compute_stream());
    in_ = out_ = Tensor();
  }
  bool test() override { return done_.reached(); }

 private:
  Tensor in_, out_;  // alive until the compute stream waits
  Event done_;
  bool waited_ = false;
};

/// A message of host memory whose tensor lies on the GPU.
class PendingMessage final : public Pending {
 public:
  /// Received into `staging`, to be copied to `target`; a sent one has no target.
  PendingMessage(std::unique_ptr<Pending> message, Tensor staging, Tensor target)
      : message_(std::move(message)), staging_(std::move(staging)), target_(std::move(target)) {}
  void wait() override {
    message_->wait();
    if (!target_.defined()) return;
    cuda::wait_with_progress(cuda::current_stream());  // the driver waits in copies of much
    target_.copy_from(staging_);
  }
  bool test() override { return message_->test(); }

 private:
  std::unique_ptr<Pending> message_;
  Tensor staging_, target_;
};

/// Those alive. While there are any, MPI goes on when the host waits for the GPU: other ranks may need messages
/// of a pipeline that are under way before they come to the collective that this rank's GPU waits in.
int communicators = 0;

class DeviceCommunicator final : public Communicator {
 public:
  explicit DeviceCommunicator(std::unique_ptr<Communicator> host) : host_(std::move(host)) {
    // Multicast over NVLink is not to be had on every machine that offers it. Read when the first one is made.
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    const detail::MeetingDeadline deadline(fmt::format("creation of group {} on the GPU", host_->name()));
    ncclUniqueId id{};
    if (host_->rank() == 0) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    const Tensor bytes = Tensor::empty({static_cast<std::int64_t>(sizeof(id))}, DType::u8);
    std::memcpy(bytes.raw(), &id, sizeof(id));
    host_->broadcast(bytes, 0);
    std::memcpy(&id, bytes.raw(), sizeof(id));
    check_nccl(ncclCommInitRank(&comm_, host_->size(), id, host_->rank()), "ncclCommInitRank");
    (void)cudaGetLastError();  // of what NCCL tried on its way
    HYSPARSE_CUDA_CHECK(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking));
    watch_.emplace(comm_, host_->name());
    if (communicators++ == 0) cuda::set_while_waiting(detail::progress_mpi);
  }
  ~DeviceCommunicator() override {
    if (--communicators == 0) cuda::set_while_waiting(nullptr);
    watch_.reset();
    // Others may be gone when this is unwinding: nothing is waited for then.
    const bool unwinding = std::uncaught_exceptions() > 0;
    constexpr double seconds_to_abort = 30;
    const detail::Deadline deadline(
        unwinding ? seconds_to_abort : detail::collective_timeout(), [name = host_->name()] {
          detail::print_problems(
              fmt::format("rank {}: group {} cannot be ended on the GPU", rank_in_messages(), name));
          std::_Exit(1);
        });
    if (unwinding) {
      ncclCommAbort(comm_);
    } else {
      ncclCommDestroy(comm_);
    }
    cudaStreamDestroy(side_);
  }

  const std::string& name() const override { return host_->name(); }
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  void all_reduce(const Tensor& tensor) override {
    count("all_reduce", tensor.bytes());
    if (tensor.device().is_cpu()) return host_->all_reduce(tensor);
    watch_->calling("all_reduce");
    check_nccl(ncclAllReduce(tensor.raw(), tensor.raw(), elements(tensor), nccl_type(tensor.dtype()), ncclSum,
                             comm_, compute_stream()),
               "ncclAllReduce");
    watch_->enqueued(compute_stream());
  }

  void reduce_scatter(const Tensor& in, const Tensor& out) override {
    check_reduce_scatter(in, out);
    count("reduce_scatter", in.bytes());
    if (in.device().is_cpu()) return host_->reduce_scatter(in, out);
    reduce_scatter_on(in, out, compute_stream());
  }

  void all_gather(const Tensor& in, const Tensor& out) override {
    check_all_gather(in, out);
    count("all_gather", in.bytes());
    if (in.device().is_cpu()) return host_->all_gather(in, out);
    all_gather_on(in, out, compute_stream());
  }

  void all_to_all(const Tensor& in, std::span<const std::int64_t> send_rows, const Tensor& out,
                  std::span<const std::int64_t> receive_rows) override {
    check_all_to_all(in, send_rows, out, receive_rows);
    count("all_to_all", in.bytes());
    if (in.device().is_cpu()) return host_->all_to_all(in, send_rows, out, receive_rows);
    watch_->calling("all_to_all");
    check_nccl(ncclGroupStart(), "ncclGroupStart");
    ncclResult_t first_error = ncclSuccess;  // the group is ended before it is thrown
    const auto note = [&](ncclResult_t result) {
      if (first_error == ncclSuccess) first_error = result;
    };
    std::int64_t sent = 0, received = 0;
    for (int peer = 0; peer < size(); ++peer) {
      const std::int64_t give = send_rows[static_cast<std::size_t>(peer)];
      const std::int64_t take = receive_rows[static_cast<std::size_t>(peer)];
      const Tensor to_peer = in.slice(sent, sent + give), from_peer = out.slice(received, received + take);
      if (to_peer.numel() > 0) {
        note(ncclSend(to_peer.raw(), elements(to_peer), nccl_type(in.dtype()), peer, comm_, compute_stream()));
      }
      if (from_peer.numel() > 0) {
        note(ncclRecv(from_peer.raw(), elements(from_peer), nccl_type(out.dtype()), peer, comm_,
                      compute_stream()));
      }
      sent += give;
      received += take;
    }
    note(ncclGroupEnd());
    check_nccl(first_error, "ncclSend and ncclRecv");
    watch_->enqueued(compute_stream());
  }

  void broadcast(const Tensor& tensor, int root) override {
    count("broadcast", rank() == root ? tensor.bytes() : 0);
    if (tensor.device().is_cpu()) return host_->broadcast(tensor, root);
    watch_->calling("broadcast");
    check_nccl(ncclBroadcast(tensor.raw(), tensor.raw(), elements(tensor), nccl_type(tensor.dtype()), root,
                             comm_, compute_stream()),
               "ncclBroadcast");
    watch_->enqueued(compute_stream());
  }

  std::unique_ptr<Pending> send(const Tensor& tensor, int to, int tag) override {
    count("send", tensor.bytes());
    if (tensor.device().is_cpu()) return host_->send(tensor, to, tag);
    Tensor staging = tensor.to_device(Device{});  // waits for the stream
    auto message = host_->send(staging, to, tag);
    return std::make_unique<PendingMessage>(std::move(message), std::move(staging), Tensor());
  }
  std::unique_ptr<Pending> receive(const Tensor& tensor, int from, int tag) override {
    count("receive", 0);
    if (tensor.device().is_cpu()) return host_->receive(tensor, from, tag);
    Tensor staging = Tensor::empty(tensor.shape(), tensor.dtype());
    auto message = host_->receive(staging, from, tag);
    return std::make_unique<PendingMessage>(std::move(message), std::move(staging), tensor);
  }

  void barrier() override {
    count("barrier", 0);
    host_->barrier();
  }

  std::unique_ptr<Pending> start_reduce_scatter(const Tensor& in, const Tensor& out) override {
    check_reduce_scatter(in, out);
    count("reduce_scatter", in.bytes());
    if (in.device().is_cpu()) return host_->start_reduce_scatter(in, out);
    return on_side(in, out, [&] { reduce_scatter_on(in, out, side_); });
  }
  std::unique_ptr<Pending> start_all_gather(const Tensor& in, const Tensor& out) override {
    check_all_gather(in, out);
    count("all_gather", in.bytes());
    if (in.device().is_cpu()) return host_->start_all_gather(in, out);
    return on_side(in, out, [&] { all_gather_on(in, out, side_); });
  }

 private:
  static std::size_t elements(const Tensor& tensor) { return static_cast<std::size_t>(tensor.numel()); }

  void reduce_scatter_on(const Tensor& in, const Tensor& out, cudaStream_t stream) {
    watch_->calling("reduce_scatter");
    check_nccl(
        ncclReduceScatter(in.raw(), out.raw(), elements(out), nccl_type(in.dtype()), ncclSum, comm_, stream),
        "ncclReduceScatter");
    watch_->enqueued(stream);
  }
  void all_gather_on(const Tensor& in, const Tensor& out, cudaStream_t stream) {
    watch_->calling("all_gather");
    check_nccl(ncclAllGather(in.raw(), out.raw(), elements(in), nccl_type(in.dtype()), comm_, stream),
               "ncclAllGather");
    watch_->enqueued(stream);
  }

  template <class F>
  std::unique_ptr<Pending> on_side(const Tensor& in, const Tensor& out, F&& collective) {
    ready_.record(compute_stream());
    ready_.hold(side_);
    auto pending = std::make_unique<PendingCollective>(in, out);
    collective();
    pending->record(side_);
    return pending;
  }

  std::unique_ptr<Communicator> host_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t side_ = nullptr;
  Event ready_;
  std::optional<detail::CollectiveWatch> watch_;
};

}  // namespace

std::unique_ptr<Communicator> device_communicator(std::unique_ptr<Communicator> host) {
  return std::make_unique<DeviceCommunicator>(std::move(host));
}

void share_gpu_between_ranks(int rank) {
  const std::string host = fmt::format("hysparse-rank-{}", rank);
  setenv("NCCL_HOSTID", host.c_str(), 1);
}

}  // namespace hysparse
