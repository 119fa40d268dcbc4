// Collectives of device tensors against those of host tensors, and their order with the compute stream, under
// mpirun; the ranks share GPU 0.
#include <numeric>

#include "core/tape.h"
#include "parallel/cuda/device_communicator.h"
#include "tests/core/gpu_test.h"
#include "tests/core/set_element.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse {
namespace {

using testing::gpu;
using testing::on_gpu;
using testing::poisoned;
using testing::runtime;
using testing::set_element;

constexpr DType dtypes[] = {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8};
constexpr std::int64_t sizes[] = {0, 1, 7, 333, 40000};

std::vector<int> all_ranks() {
  std::vector<int> ranks(static_cast<std::size_t>(runtime().world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// The group of all ranks, for host tensors and for those of the GPU.
struct Groups {
  Groups() : host(runtime().communicator("host", all_ranks())) {
    (void)gpu();
    share_gpu_between_ranks(runtime().rank());
    device = device_communicator(runtime().communicator("test", all_ranks()));
  }
  int rank() const { return host->rank(); }
  int size() const { return host->size(); }

  std::unique_ptr<Communicator> host, device;
};

/// Small whole numbers, whose sums every dtype holds exactly.
Tensor filled(int rank, Shape shape, DType dtype, std::int64_t first = 0) {
  const Tensor t = Tensor::empty(shape, dtype);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    set_element(t, i, static_cast<double>((7 * rank + 3 * (first + i) + (first + i) / 5) % 29));
  }
  return t;
}

std::vector<std::uint8_t> bytes_of(const Tensor& t) {
  return t.to_device(Device{}).part(0, {t.bytes()}, DType::u8).to_vector<std::uint8_t>();
}

TEST(CudaCommunicator, EveryCollectiveInEveryDtypeIsThatOfTheHost) {
  const Groups groups;
  const int n = groups.size(), me = groups.rank();
  for (const DType dtype : dtypes) {
    for (const std::int64_t size : sizes) {
      const Tensor part = filled(me, {size}, dtype), whole = filled(me, {n * size}, dtype);
      const auto check = [&](const char* what, auto&& collective, const Tensor& in, const Tensor& host_out,
                             const Tensor& gpu_out) {
        collective(*groups.host, in, host_out);
        collective(*groups.device, on_gpu(in), gpu_out);
        ASSERT_EQ(bytes_of(gpu_out), bytes_of(host_out)) << what << " " << dtype_name(dtype) << " " << size;
      };
      const Tensor sum = part.clone(), sent = filled(me, {size}, dtype);
      check(
          "all_reduce",
          [](Communicator& group, const Tensor& in, const Tensor& out) {
            out.copy_from(in);
            group.all_reduce(out);
          },
          part, sum, poisoned({size}, dtype));
      check(
          "reduce_scatter",
          [](Communicator& g, const Tensor& in, const Tensor& out) { g.reduce_scatter(in, out); }, whole,
          Tensor::zeros({size}, dtype), poisoned({size}, dtype));
      check(
          "all_gather", [](Communicator& g, const Tensor& in, const Tensor& out) { g.all_gather(in, out); },
          part, Tensor::zeros({n * size}, dtype), poisoned({n * size}, dtype));
      check(
          "broadcast",
          [&](Communicator& group, const Tensor& in, const Tensor& out) {
            out.copy_from(in);
            group.broadcast(out, n - 1);
          },
          sent, Tensor::zeros({size}, dtype), poisoned({size}, dtype));
      for (const bool started : {false, true}) {  // in place
        const Tensor host_whole = whole.clone(), gpu_whole = on_gpu(whole).clone();
        for (const auto& [group, t] :
             {std::pair{groups.host.get(), host_whole}, {groups.device.get(), gpu_whole}}) {
          const Tensor own = t.slice(me * size, (me + 1) * size);
          if (started) {
            group->start_reduce_scatter(t, own)->wait();
            group->start_all_gather(own, t)->wait();
          } else {
            group->reduce_scatter(t, own);
            group->all_gather(own, t);
          }
        }
        ASSERT_EQ(bytes_of(gpu_whole), bytes_of(host_whole))
            << dtype_name(dtype) << " " << size << " " << started;
      }
    }
  }
}

/// Rows that rank `from` sends to rank `to`: uneven, many of them zero.
std::int64_t rows_between(int from, int to) {
  return (3 * from + 5 * to) % 4 * ((from + to) % 3);
}

TEST(CudaCommunicator, AllToAllUnevenWithZerosAndWithNothingAtAll) {
  const Groups groups;
  const int n = groups.size(), me = groups.rank();
  for (const bool nothing : {false, true}) {
    std::vector<std::int64_t> sends, receives;
    for (int r = 0; r < n; ++r) {
      sends.push_back(nothing ? 0 : rows_between(me, r));
      receives.push_back(nothing ? 0 : rows_between(r, me));
    }
    const std::int64_t out_rows = std::accumulate(sends.begin(), sends.end(), std::int64_t{0}),
                       in_rows = std::accumulate(receives.begin(), receives.end(), std::int64_t{0});
    for (const DType dtype : dtypes) {
      const Tensor in = filled(me, {out_rows, 3, 5}, dtype), expected = Tensor::zeros({in_rows, 3, 5}, dtype);
      const Tensor got = poisoned({in_rows, 3, 5}, dtype);
      groups.host->all_to_all(in, sends, expected, receives);
      groups.device->all_to_all(on_gpu(in), sends, got, receives);
      ASSERT_EQ(bytes_of(got), bytes_of(expected)) << dtype_name(dtype);
    }
  }
}

TEST(CudaCommunicator, MessagesGoRoundInAnyOrderOfTags) {
  const Groups groups;
  const int n = groups.size(), me = groups.rank(), next = (me + 1) % n, before = (me + n - 1) % n;
  std::vector<Tensor> received;
  std::vector<std::unique_ptr<Pending>> pending;
  constexpr int messages = 6;
  for (int m = 0; m < messages; ++m) {
    received.push_back(poisoned({100000 * (m % 3) + m}, DType::f32));
    pending.push_back(groups.device->receive(received.back(), before, m));
  }
  for (int m = messages; m-- > 0;) {
    const Tensor sent = on_gpu(filled(me, {100000 * (m % 3) + m}, DType::f32, m)).clone();
    pending.push_back(groups.device->send(sent, next, m));
    sent.zero_();  // what was sent is what it was then
  }
  for (const auto& p : pending) p->wait();
  for (int m = 0; m < messages; ++m) {
    const Tensor expected = filled(before, received[static_cast<std::size_t>(m)].shape(), DType::f32, m);
    EXPECT_EQ(bytes_of(received[static_cast<std::size_t>(m)]), bytes_of(expected)) << m;
  }
}

TEST(CudaCommunicator, ACollectiveSeesWhatComesBeforeItAndIsSeenByWhatComesAfter) {
  const Groups groups;
  const int n = groups.size(), me = groups.rank();
  constexpr std::int64_t size = 1 << 20;
  struct Started {
    Tensor in, out;
    std::unique_ptr<Pending> pending;
  };
  std::vector<Started> started;
  const Tensor one =
      on_gpu(Tensor::from<float>(std::vector<float>(size * static_cast<std::size_t>(n), 1), {size * n}));
  for (int round = 0; round < 8; ++round) {
    Started s{Tensor::zeros({size * n}, DType::f32, gpu().device), poisoned({size}, DType::f32), nullptr};
    for (int k = 0; k <= round + me; ++k) add_in_place(gpu(), s.in, one);  // long enough to be under way
    s.pending = groups.device->start_reduce_scatter(s.in, s.out);
    s.pending->test();
    const Tensor other = one.clone();  // beside it, on the compute stream
    groups.device->all_reduce(other);
    started.push_back(std::move(s));
    if (round % 2 == 1) {  // memory comes and goes meanwhile
      Started& first = started[started.size() - 2];
      first.pending->wait();
      first.in = Tensor();
      EXPECT_EQ(first.out.to_vector<float>()[size - 1], static_cast<float>(round * n + n * (n - 1) / 2));
    }
  }
  for (std::size_t i = 1; i < started.size(); i += 2) started[i].pending->wait();
}

TEST(CudaCommunicator, OneThatAnExceptionDropsKeepsItsMemoryUntilItIsOver) {
  const Groups groups;
  const int n = groups.size(), me = groups.rank();
  constexpr std::int64_t size = 1 << 20;
  for (int round = 0; round < 4; ++round) {
    const Tensor kept = Tensor::zeros({size * n}, DType::f32, gpu().device);
    {
      const Tensor in = on_gpu(filled(me, {size}, DType::f32));
      groups.device->start_all_gather(in, poisoned({size * n}, DType::f32));
    }
    // Of the sizes that were just given back: what is written here must stay.
    const Tensor a = Tensor::zeros({size * n}, DType::f32, gpu().device),
                 b = Tensor::zeros({size}, DType::f32, gpu().device);
    for (const Tensor& t : {a, b, kept}) {
      const std::vector<float> values = t.to_vector<float>();
      ASSERT_TRUE(std::all_of(values.begin(), values.end(), [](float v) { return v == 0; })) << round;
    }
  }
}

TEST(CudaCommunicator, ManyMoreThanAreWatchedAndTheSameBitsEachTime) {
  const Groups groups;
  const Tensor start = on_gpu(
      testing::random_tensor({5003}, static_cast<std::uint64_t>(groups.rank()) + 1, "x", 1.0, DType::f32));
  std::vector<std::vector<std::uint8_t>> results;
  for (int again = 0; again < 2; ++again) {
    const Tensor x = start.clone();
    constexpr int many = 300;
    for (int i = 0; i < many; ++i) {
      groups.device->all_reduce(x);
      x.copy_from(start);
    }
    groups.device->all_reduce(x);
    results.push_back(bytes_of(x));
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST(CudaCommunicator, HostTensorsGoByTheHostAndAllIsCounted) {
  const Groups groups;
  const Tensor here = Tensor::from<double>({1.0}, {1}), there = on_gpu(here).clone();
  groups.device->all_reduce(here);
  groups.device->all_reduce(there);
  EXPECT_EQ(here.data<double>()[0], groups.size());
  EXPECT_EQ(there.to_vector<double>()[0], groups.size());
  EXPECT_EQ(groups.device->traffic().at("all_reduce"), (Traffic{2, 16}));
}

}  // namespace
}  // namespace hysparse
