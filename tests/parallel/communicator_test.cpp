// Every collective in every dtype, at the sizes that take each path, under mpirun.
#include <numeric>

#include "core/error.h"
#include "parallel/mpi_communicator.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse {
namespace {

using testing::runtime;

constexpr DType dtypes[] = {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8};

std::vector<int> all_ranks() {
  std::vector<int> ranks(static_cast<std::size_t>(runtime().world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

std::unique_ptr<Communicator> world(const MpiTuning& tuning) {
  return runtime().world() == 1 ? local_communicator("test") : mpi_communicator("test", all_ranks(), tuning);
}

/// Tunings that split messages and chunks at small sizes, or take the other path of all_reduce.
std::vector<MpiTuning> tunings() {
  return {{},
          {.small_bytes = 0},
          {.piece_bytes = 100, .scratch_bytes = 512, .small_bytes = 64},
          {.piece_bytes = 48, .scratch_bytes = 1, .small_bytes = 0}};
}

template <class F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f64:
      return f.template operator()<double>();
    case DType::f32:
      return f.template operator()<float>();
    case DType::bf16:
      return f.template operator()<BFloat16>();
    case DType::i64:
      return f.template operator()<std::int64_t>();
    case DType::i32:
      return f.template operator()<std::int32_t>();
    case DType::u8:
      return f.template operator()<std::uint8_t>();
  }
}

/// What rank r has at element i: small whole numbers, whose sums every dtype holds exactly.
int value_of(int r, std::int64_t i) {
  return static_cast<int>((7 * r + 3 * i + i / 5) % 29);
}

Tensor filled(int r, Shape shape, DType dtype, std::int64_t first = 0) {
  const Tensor t = Tensor::empty(shape, dtype);
  with_type(dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < t.numel(); ++i)
      t.data<T>()[i] = static_cast<T>(static_cast<float>(value_of(r, first + i)));
  });
  return t;
}

std::vector<int> ints(const Tensor& t) {
  std::vector<int> result;
  with_type(t.dtype(), [&]<class T>() {
    for (std::int64_t i = 0; i < t.numel(); ++i)
      result.push_back(static_cast<int>(static_cast<double>(t.data<T>()[i])));
  });
  return result;
}

int sum_over_ranks(std::int64_t i) {
  int sum = 0;
  for (int r = 0; r < runtime().world(); ++r) sum += value_of(r, i);
  return sum;
}

constexpr std::int64_t sizes[] = {0, 1, 2, 5, 64, 333, 1500};

TEST(Communicator, AllReduce) {
  for (const MpiTuning& tuning : tunings()) {
    const auto group = world(tuning);
    for (const DType dtype : dtypes) {
      for (const std::int64_t n : sizes) {
        const Tensor t = filled(group->rank(), {n}, dtype);
        group->all_reduce(t);
        std::vector<int> expected;
        for (std::int64_t i = 0; i < n; ++i) expected.push_back(sum_over_ranks(i));
        ASSERT_EQ(ints(t), expected) << dtype_name(dtype) << " " << n;
      }
    }
  }
}

TEST(Communicator, ReduceScatterAndAllGatherAlsoInPlace) {
  for (const MpiTuning& tuning : tunings()) {
    const auto group = world(tuning);
    for (const DType dtype : dtypes) {
      for (const std::int64_t n : sizes) {
        for (const bool in_place : {false, true}) {
          const Tensor in = filled(group->rank(), {group->size() * n}, dtype);
          const Tensor out =
              in_place ? in.slice(group->rank() * n, (group->rank() + 1) * n) : Tensor::zeros({n}, dtype);
          group->reduce_scatter(in, out);
          std::vector<int> expected;
          for (std::int64_t i = 0; i < group->size() * n; ++i) expected.push_back(sum_over_ranks(i));
          ASSERT_EQ(ints(out), std::vector<int>(expected.begin() + group->rank() * n,
                                                expected.begin() + (group->rank() + 1) * n))
              << dtype_name(dtype) << " " << n;
          const Tensor gathered = in_place ? in : Tensor::zeros({group->size(), n}, dtype);
          group->all_gather(out, gathered);
          ASSERT_EQ(ints(gathered), expected) << dtype_name(dtype) << " " << n;
        }
      }
    }
  }
}

/// Rows that rank `from` sends to rank `to`: uneven, many of them zero.
std::int64_t rows_between(int from, int to) {
  return (3 * from + 5 * to) % 4 * ((from + to) % 3);
}

TEST(Communicator, AllToAllUnevenWithZeros) {
  for (const MpiTuning& tuning : tunings()) {
    const auto group = world(tuning);
    const int me = group->rank(), n = group->size();
    for (const DType dtype : dtypes) {
      for (const std::int64_t row : {1, 3, 40}) {
        std::vector<std::int64_t> sends, receives;
        std::vector<int> expected;
        for (int r = 0; r < n; ++r) {
          sends.push_back(rows_between(me, r));
          receives.push_back(rows_between(r, me));
          std::int64_t first = 0;
          for (int to = 0; to < me; ++to) first += rows_between(r, to) * row;
          for (std::int64_t i = 0; i < receives.back() * row; ++i) expected.push_back(value_of(r, first + i));
        }
        const Tensor in =
            filled(me, {std::accumulate(sends.begin(), sends.end(), std::int64_t{0}), row}, dtype);
        const Tensor out =
            Tensor::zeros({std::accumulate(receives.begin(), receives.end(), std::int64_t{0}), row}, dtype);
        group->all_to_all(in, sends, out, receives);
        ASSERT_EQ(ints(out), expected) << dtype_name(dtype) << " " << row;
        // The adjoint: back with the counts swapped.
        const Tensor back = Tensor::zeros(in.shape(), dtype);
        group->all_to_all(out, receives, back, sends);
        ASSERT_EQ(ints(back), ints(in));
      }
    }
  }
}

TEST(Communicator, AllToAllOfNothing) {
  const auto group = world({});
  const Tensor none = Tensor::empty({0, 8}, DType::f32);
  const std::vector<std::int64_t> rows(static_cast<std::size_t>(group->size()));
  group->all_to_all(none, rows, none, rows);
}

TEST(Communicator, BroadcastFromEachRoot) {
  for (const MpiTuning& tuning : tunings()) {
    const auto group = world(tuning);
    for (const DType dtype : dtypes) {
      for (const std::int64_t n : sizes) {
        for (int root = 0; root < group->size(); ++root) {
          const Tensor t = filled(group->rank(), {n}, dtype);
          group->broadcast(t, root);
          ASSERT_EQ(ints(t), ints(filled(root, {n}, dtype)));
        }
      }
    }
  }
}

TEST(Communicator, SendAndReceiveByTag) {
  const auto group = world({.piece_bytes = 100});
  if (group->size() == 1) return;  // a group of one has nobody to send to
  const int me = group->rank(), n = group->size();
  const int next = (me + 1) % n, previous = (me + n - 1) % n;
  for (const DType dtype : dtypes) {
    // Two tags in the opposite order, two messages of one tag in order.
    std::vector<std::unique_ptr<Pending>> pending;
    const Tensor b = Tensor::zeros({33}, dtype), a = Tensor::zeros({50}, dtype), c = Tensor::zeros({7}, dtype);
    pending.push_back(group->receive(b, previous, 32766));
    pending.push_back(group->receive(a, previous, 0));
    pending.push_back(group->receive(c, previous, 0));
    pending.push_back(group->send(filled(me, {50}, dtype), next, 0));
    pending.push_back(group->send(filled(me, {33}, dtype, 5), next, 32766));
    pending.push_back(group->send(filled(me, {7}, dtype, 9), next, 0));
    const Tensor sum = filled(me, {4000}, DType::f32);
    group->all_reduce(sum);  // a collective in between does not mix with them
    for (const auto& p : pending) p->wait();
    ASSERT_EQ(ints(a), ints(filled(previous, {50}, dtype)));
    ASSERT_EQ(ints(b), ints(filled(previous, {33}, dtype, 5)));
    ASSERT_EQ(ints(c), ints(filled(previous, {7}, dtype, 9)));
    ASSERT_EQ(ints(sum)[17], sum_over_ranks(17));
  }
  EXPECT_THROW(group->send(Tensor::zeros({1}, DType::f32), me, 0), CheckFailure);
}

TEST(Communicator, SumsAreInOrderOfRankAndBitwiseTheSameEverywhere) {
  // Terms of very different size: any other order of addition gives other bits.
  const auto term = [](int r, std::int64_t i) {
    return static_cast<float>((r % 2 ? -1.0 : 1.0) * (1e7 / (r + 1) + 0.37 * static_cast<double>(i)));
  };
  for (const MpiTuning& tuning : tunings()) {
    const auto group = world(tuning);
    for (const std::int64_t n : {1, 100, 3001}) {
      std::vector<float> own, expected;
      for (std::int64_t i = 0; i < n; ++i) {
        own.push_back(term(group->rank(), i));
        float sum = term(0, i);
        for (int r = 1; r < group->size(); ++r) sum += term(r, i);
        expected.push_back(sum);
      }
      const Tensor t = Tensor::from(own, {n});
      group->all_reduce(t);
      ASSERT_EQ(t.to_vector<float>(), expected);
    }
  }
}

TEST(Communicator, CountsTraffic) {
  const auto group = world({});
  const int n = group->size();
  const Tensor ten = Tensor::zeros({10}, DType::f32), all = Tensor::zeros({10 * n}, DType::f32);
  group->all_reduce(ten);
  group->all_reduce(ten);
  group->all_gather(ten, all);
  group->reduce_scatter(all, ten);
  const std::int64_t scale = n == 1 ? 0 : 1;  // in a group of one nothing leaves the rank
  EXPECT_EQ(group->traffic().at("all_reduce").calls, 2);
  EXPECT_EQ(group->traffic().at("all_reduce").bytes, scale * 80);
  EXPECT_EQ(group->traffic().at("all_gather").bytes, scale * 40);
  EXPECT_EQ(group->traffic().at("reduce_scatter").bytes, scale * 40 * n);
}

TEST(Communicator, RefusesMismatches) {
  const auto group = world({});
  const Tensor t = Tensor::zeros({3}, DType::f32);
  EXPECT_THROW(group->reduce_scatter(t, Tensor::zeros({3 * group->size() + 1}, DType::f32)), CheckFailure);
  EXPECT_THROW(group->all_gather(t, Tensor::zeros({3 * group->size()}, DType::f64)), CheckFailure);
  EXPECT_THROW(group->broadcast(t, group->size()), CheckFailure);
}

}  // namespace
}  // namespace hysparse
