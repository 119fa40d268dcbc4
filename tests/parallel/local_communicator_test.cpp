#include <gtest/gtest.h>

#include "core/error.h"
#include "parallel/communicator.h"
#include "parallel/process_group.h"

namespace hysparse {
namespace {

TEST(LocalCommunicator, EveryCollectiveIsACopyOrNothing) {
  const auto group = local_communicator("dp");
  EXPECT_EQ(group->name(), "dp");
  EXPECT_EQ(group->rank(), 0);
  EXPECT_EQ(group->size(), 1);
  const Tensor in = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {3, 2});
  const std::vector<float> values = in.to_vector<float>();
  group->all_reduce(in);
  group->broadcast(in, 0);
  group->barrier();
  EXPECT_EQ(in.to_vector<float>(), values);
  const Tensor scattered = Tensor::zeros({6}, DType::f32), gathered = Tensor::zeros({6}, DType::f32),
               exchanged = Tensor::zeros({3, 2}, DType::f32);
  group->reduce_scatter(in, scattered);
  group->all_gather(in, gathered);
  const std::vector<std::int64_t> rows{3};
  group->all_to_all(in, rows, exchanged, rows);
  for (const Tensor& t : {scattered, gathered, exchanged}) EXPECT_EQ(t.to_vector<float>(), values);
  for (const char* operation :
       {"all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "barrier"}) {
    EXPECT_EQ(group->traffic().at(operation).calls, 1) << operation;
    EXPECT_EQ(group->traffic().at(operation).bytes, 0) << operation;
  }
}

TEST(LocalCommunicator, InPlaceAndEmptyTensors) {
  const auto group = local_communicator("dp");
  const Tensor t = Tensor::from<double>({1, 2}, {2});
  group->reduce_scatter(t, t);
  group->all_gather(t, t);
  EXPECT_EQ(t.to_vector<double>(), (std::vector<double>{1, 2}));
  const Tensor none = Tensor::empty({0, 3}, DType::f32);
  const std::vector<std::int64_t> rows{0};
  group->all_to_all(none, rows, none, rows);
}

TEST(LocalCommunicator, StartedCollectivesAreDoneAtOnce) {
  const auto group = local_communicator("dp");
  const Tensor in = Tensor::from<float>({1, 2, 3}, {3}), out = Tensor::zeros({3}, DType::f32);
  const auto sum = group->start_reduce_scatter(in, out);
  EXPECT_TRUE(sum->test());
  sum->wait();
  EXPECT_EQ(out.to_vector<float>(), in.to_vector<float>());
  const auto gather = group->start_all_gather(in, in);
  EXPECT_TRUE(gather->test());
  gather->wait();
  EXPECT_EQ(group->traffic().at("reduce_scatter").calls, 1);
  EXPECT_EQ(group->traffic().at("all_gather").bytes, 0);
}

TEST(LocalCommunicator, RefusesMismatches) {
  const auto group = local_communicator("dp");
  const Tensor two = Tensor::zeros({2}, DType::f32), three = Tensor::zeros({3}, DType::f32);
  EXPECT_THROW(group->reduce_scatter(two, three), CheckFailure);
  EXPECT_THROW(group->all_gather(two, Tensor::zeros({2}, DType::f64)), CheckFailure);
  const std::vector<std::int64_t> rows{1};
  EXPECT_THROW(group->all_to_all(two, rows, two, rows), CheckFailure);
  EXPECT_THROW(group->broadcast(two, 1), CheckFailure);
  EXPECT_THROW(group->send(two, 0, 0), CheckFailure);
  EXPECT_THROW(group->receive(two, 0, 0), CheckFailure);
}

TEST(RuntimeAlone, IsOneRankWithoutMpi) {
  Runtime runtime(nullptr, nullptr);
  EXPECT_EQ(runtime.world(), 1);
  EXPECT_EQ(runtime.local_ranks(), 1);
  const ProcessGroups groups(runtime, Mesh({}, 1));
  EXPECT_EQ(groups.axis(Axis::dp_cp).name(), "dp_cp");
  EXPECT_EQ(groups.axis(Axis::world).size(), 1);
  runtime.agree([] {});
  EXPECT_THROW(runtime.agree([] { throw_error("a"); }), AgreedError);
  EXPECT_THROW(runtime.agree([] { HYSPARSE_CHECK(false); }), AgreedFailure);
  EXPECT_EQ(runtime.run([] { return 5; }), 5);
  EXPECT_EQ(runtime.run([]() -> int { throw_error("printed: an error"); }), 2);
  EXPECT_EQ(runtime.run([]() -> int { throw_failure("printed: a failure"); }), 1);
  EXPECT_EQ(runtime.run([&] {
    runtime.agree([] { throw_error("printed: an agreed error"); });
    return 0;
  }),
            2);
}

}  // namespace
}  // namespace hysparse
