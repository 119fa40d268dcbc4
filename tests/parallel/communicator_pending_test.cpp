// Collectives under way: several at once and beside others, against the blocking ones, under mpirun.
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "parallel/mpi_communicator.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse {
namespace {

using testing::runtime;

std::unique_ptr<Communicator> world(const MpiTuning& tuning = {}) {
  std::vector<int> ranks(static_cast<std::size_t>(runtime().world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return runtime().world() == 1 ? local_communicator("test") : mpi_communicator("test", ranks, tuning);
}

/// Terms of very different size on each rank: any other order of addition gives other bits.
Tensor terms(int rank, std::int64_t n, int number, DType dtype) {
  const Tensor t = Tensor::empty({n}, DType::f64);
  const CounterRandom random(11, fmt::format("{}.{}", rank, number));
  for (std::int64_t i = 0; i < n; ++i)
    t.data<double>()[i] = random.normal(static_cast<std::uint64_t>(i)) * (rank % 2 ? 1e6 : 1e-3);
  return t.to(dtype);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0);
}

constexpr std::int64_t sizes[] = {0, 1, 7, 333, 40000};
constexpr DType dtypes[] = {DType::f64, DType::f32, DType::bf16};

TEST(Pending, ReduceScatterIsBitwiseTheBlockingOneAlsoInPlace) {
  for (const MpiTuning& tuning : {MpiTuning{}, MpiTuning{.piece_bytes = 100, .scratch_bytes = 512}}) {
    const auto group = world(tuning);
    for (const DType dtype : dtypes) {
      for (const std::int64_t n : sizes) {
        if (n > 1000 && tuning.piece_bytes == 100) continue;  // thousands of messages
        const Tensor in = terms(group->rank(), n * group->size(), 0, dtype);
        const Tensor expected = Tensor::zeros({n}, dtype);
        group->reduce_scatter(in, expected);
        for (const bool in_place : {false, true}) {
          const Tensor from = in_place ? in.clone() : in;
          const Tensor out =
              in_place ? from.slice(group->rank() * n, (group->rank() + 1) * n) : Tensor::zeros({n}, dtype);
          group->start_reduce_scatter(from, out)->wait();
          ASSERT_TRUE(same_bits(out, expected)) << dtype_name(dtype) << " " << n << " " << in_place;
        }
      }
    }
  }
}

TEST(Pending, AllGatherIsTheBlockingOneAlsoInPlace) {
  for (const MpiTuning& tuning : {MpiTuning{}, MpiTuning{.piece_bytes = 100}}) {
    const auto group = world(tuning);
    for (const std::int64_t n : {0, 1, 7, 333}) {
      const Tensor in = terms(group->rank(), n, 0, DType::f32);
      const Tensor expected = Tensor::zeros({n * group->size()}, DType::f32), out = expected.clone(),
                   in_place = expected.clone();
      group->all_gather(in, expected);
      group->start_all_gather(in, out)->wait();
      ASSERT_TRUE(same_bits(out, expected)) << n;
      const Tensor own = in_place.slice(group->rank() * n, (group->rank() + 1) * n);
      own.copy_from(in);
      group->start_all_gather(own, in_place)->wait();
      ASSERT_TRUE(same_bits(in_place, expected)) << n;
    }
  }
}

TEST(Pending, ManyAtOnceBesideOtherCollectivesAndWaitedForInAnyOrder) {
  const auto group = world();
  const int n = group->size(), me = group->rank();
  constexpr int rounds = 6;
  struct Started {
    Tensor in, out, expected;
    std::unique_ptr<Pending> pending;
  };
  std::vector<Started> started;
  for (int k = 0; k < rounds; ++k) {
    const std::int64_t size = k % 2 == 0 ? 20000 + k : 100 + k;  // by rendezvous and eagerly
    Started sum{terms(me, size * n, k, DType::f32), Tensor::zeros({size}, DType::f32),
                Tensor::zeros({size}, DType::f32), nullptr};
    group->reduce_scatter(sum.in, sum.expected);
    started.push_back(std::move(sum));
    Started gather{terms(me, size, k, DType::f64), Tensor::zeros({size * n}, DType::f64),
                   Tensor::zeros({size * n}, DType::f64), nullptr};
    group->all_gather(gather.in, gather.expected);
    started.push_back(std::move(gather));
  }
  for (std::size_t i = 0; i < started.size(); ++i) {
    Started& s = started[i];
    s.pending = i % 2 == 0 ? group->start_reduce_scatter(s.in, s.out) : group->start_all_gather(s.in, s.out);
    // Blocking ones and others in between, on the same group.
    const Tensor sum = Tensor::from<double>({1.0 + me}, {1});
    group->all_reduce(sum);
    ASSERT_EQ(sum.data<double>()[0], n * (n + 1) / 2.0);
    const Tensor long_sum = terms(me, 30000, 77, DType::f64), again = long_sum.clone();
    group->all_reduce(long_sum);
    group->all_reduce(again);
    ASSERT_TRUE(same_bits(long_sum, again));
    if (i % 3 == 0) started[i / 2].pending->test();
  }
  // Each rank waits in an order of its own.
  for (std::size_t i = 0; i < started.size(); ++i) {
    Started& s = started[(i * 5 + static_cast<std::size_t>(me) * 7) % started.size()];
    s.pending->wait();
    ASSERT_TRUE(same_bits(s.out, s.expected)) << i;
  }
}

TEST(Pending, TestSaysWhenItIsCompleteAndTheResultIsThereThen) {
  const auto group = world();
  const Tensor in = terms(group->rank(), 50000 * group->size(), 1, DType::f32);
  const Tensor expected = Tensor::zeros({50000}, DType::f32), out = Tensor::zeros({50000}, DType::f32);
  group->reduce_scatter(in, expected);
  const auto sum = group->start_reduce_scatter(in, out);
  while (!sum->test()) {
  }
  EXPECT_TRUE(sum->test());
  EXPECT_TRUE(same_bits(out, expected));
  sum->wait();
  EXPECT_TRUE(same_bits(out, expected));
  if (group->size() > 1) {
    EXPECT_THROW(sum->wait(), CheckFailure);
  }
}

TEST(Pending, ScratchOfASumIsThePartsOfTheOthersUntilItIsComplete) {
  const auto group = world();
  const Tensor in = Tensor::zeros({32768 * group->size()}, DType::f32),
               out = Tensor::zeros({32768}, DType::f32);
  const std::int64_t before = memory_use().live_bytes;
  const auto sum = group->start_reduce_scatter(in, out);
  EXPECT_EQ(memory_use().live_bytes - before, in.bytes() - out.bytes());
  while (!sum->test()) {
  }
  EXPECT_EQ(memory_use().live_bytes, before);
  sum->wait();
}

TEST(Pending, CountsAsTheBlockingOnes) {
  const auto group = world();
  const int n = group->size();
  const Tensor ten = Tensor::zeros({10}, DType::f32), all = Tensor::zeros({10 * n}, DType::f32);
  group->start_reduce_scatter(all, ten)->wait();
  group->reduce_scatter(all, ten);
  group->start_all_gather(ten, all)->wait();
  const std::int64_t scale = n == 1 ? 0 : 1;  // in a group of one nothing leaves the rank
  EXPECT_EQ(group->traffic().size(), 2u);
  EXPECT_EQ(group->traffic().at("reduce_scatter").calls, 2);
  EXPECT_EQ(group->traffic().at("reduce_scatter").bytes, scale * 80 * n);
  EXPECT_EQ(group->traffic().at("all_gather").bytes, scale * 40);
}

}  // namespace
}  // namespace hysparse
