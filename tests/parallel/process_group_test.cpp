// Runtime and ProcessGroups under mpirun.
#include "parallel/process_group.h"

#include "core/error.h"
#include "tests/parallel/meshes.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse {
namespace {

using testing::runtime;

TEST(ProcessGroups, EveryAxisOfEveryMeshReachesItsRanks) {
  for (const Mesh& mesh : testing::meshes_of(runtime().world())) {
    const ProcessGroups groups(runtime(), mesh);
    for (const Axis axis : {Axis::world, Axis::pp, Axis::dp, Axis::cp, Axis::tp, Axis::dp_cp, Axis::edp,
                            Axis::ep, Axis::etp, Axis::ep_etp, Axis::stage}) {
      Communicator& group = groups.axis(axis);
      ASSERT_EQ(group.name(), axis_name(axis));
      ASSERT_EQ(group.size(), mesh.size(axis));
      ASSERT_EQ(group.rank(), mesh.coordinate(axis, runtime().rank()));
      const Tensor own = Tensor::from<std::int32_t>({runtime().rank()}, {1});
      const Tensor all = Tensor::empty({group.size()}, DType::i32);
      group.all_gather(own, all);
      ASSERT_EQ(all.to_vector<std::int32_t>(), mesh.group(axis, runtime().rank()))
          << mesh.str() << " " << axis_name(axis);
    }
  }
}

TEST(RuntimeUnderMpi, KnowsItsHost) {
  EXPECT_EQ(runtime().local_ranks(), runtime().world());
  EXPECT_EQ(runtime().local_rank(), runtime().rank());
  EXPECT_EQ(rank_in_messages(), runtime().rank());
}

TEST(Agree, NothingThrown) {
  runtime().agree([] {});
}

TEST(Agree, EveryRankThrowsTheLowestFailingRanksProblems) {
  for (int first = 0; first < runtime().world(); ++first) {
    try {
      runtime().agree([&] {
        const int rank = runtime().rank();
        if (rank >= first)
          throw Error({fmt::format("first of {}", rank), "", fmt::format("third of {}", rank)});
      });
      FAIL() << "nothing thrown";
    } catch (const AgreedError& e) {
      EXPECT_EQ(e.problems(), (std::vector<std::string>{fmt::format("first of {}", first), "",
                                                        fmt::format("third of {}", first)}));
    }
  }
}

TEST(Agree, FailuresAndBrokenInvariantsNameTheirRank) {
  const int last = runtime().world() - 1;
  const auto message_of = [](const std::function<void()>& body) {
    try {
      runtime().agree(body);
    } catch (const AgreedFailure& e) {
      return std::string(e.what());
    }
    return std::string("nothing thrown");
  };
  const std::string prefix = last == 0 ? "" : fmt::format("rank {}: ", last);
  EXPECT_EQ(message_of([&] {
              if (runtime().rank() == last) throw_failure("disk full");
            }),
            prefix + "disk full");
  const std::string check = message_of([&] { HYSPARSE_CHECK(runtime().rank() != last, "value {}", 7); });
  EXPECT_NE(check.find("CHECK"), std::string::npos) << check;
  EXPECT_NE(check.find("value 7"), std::string::npos) << check;
  EXPECT_EQ(message_of([&] {
              if (runtime().rank() == last) throw std::runtime_error("something else");
            }),
            prefix + "something else");
}

TEST(Agree, TheLowestRankDecidesTheKind) {
  if (runtime().world() == 1) {
    EXPECT_THROW(runtime().agree([] { throw_error("a"); }), AgreedError);
    return;
  }
  EXPECT_THROW(runtime().agree([] {
    if (runtime().rank() == 0) throw_failure("lowest");
    throw_error("others");
  }),
               AgreedFailure);
  EXPECT_THROW(runtime().agree([] {
    if (runtime().rank() == 0) throw_error("lowest");
    throw_failure("others");
  }),
               AgreedError);
}

TEST(Agree, LongMessages) {
  const std::string text(100000, 'x');
  try {
    runtime().agree([&] { throw Error(text); });
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.problems(), std::vector<std::string>{text});
  }
}

}  // namespace
}  // namespace hysparse
