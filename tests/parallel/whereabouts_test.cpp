// The board of what each rank is at, under mpirun.
#include "parallel/whereabouts.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/parallel/mpi_test.h"

namespace hysparse {
namespace {

using testing::runtime;

TEST(Whereabouts, OwnStepAndLayer) {
  at_step(-1);
  at_layer(-1);
  EXPECT_EQ(detail::own_whereabouts(), "");
  at_layer(0);
  EXPECT_EQ(detail::own_whereabouts(), "layer 0");
  at_step(12);
  at_layer(40);
  EXPECT_EQ(detail::own_whereabouts(), "step 12, layer 40");
  at_layer(-1);
  EXPECT_EQ(detail::own_whereabouts(), "step 12");
}

TEST(Whereabouts, LinesOfTheHostSayWhatEachRankIsAt) {
  const int world = runtime().world(), rank = runtime().rank();
  std::vector<int> ranks;
  std::vector<std::string> expected;  // while rank 0 looks, the others wait for it in a collective
  for (int r = 0; r < world; ++r) {
    ranks.push_back(r);
    expected.push_back(fmt::format("rank {}: step {}, {}{} for ", r, 100 + r, r % 2 == 0 ? "layer 7, " : "",
                                   r == 0 ? "computing" : "in all_reduce of group everyone"));
  }
  const auto group = runtime().communicator("everyone", ranks);
  at_step(100 + rank);
  at_layer(rank % 2 == 0 ? 7 : -1);
  if (rank == 0) {
    std::vector<std::string> lines;
    const auto as_expected = [&] {
      lines = detail::whereabouts_of_host();
      return lines.size() == expected.size() &&
             std::equal(lines.begin(), lines.end(), expected.begin(),
                        [](const std::string& line, const std::string& beginning) {
                          return line.starts_with(beginning);
                        });
    };
    const auto start = std::chrono::steady_clock::now();
    while (!as_expected() && std::chrono::steady_clock::now() - start < std::chrono::seconds(20)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(as_expected()) << fmt::format("{}", fmt::join(lines, "\n"));
  }
  group->all_reduce(Tensor::from<double>({1.0}, {1}));
  at_step(-1);
  at_layer(-1);
}

TEST(Whereabouts, OneRankOfTheHostReports) {
  const Tensor reports = Tensor::from<double>({detail::first_to_report() ? 1.0 : 0.0}, {1});
  std::vector<int> ranks;
  for (int r = 0; r < runtime().world(); ++r) ranks.push_back(r);
  runtime().communicator("everyone", ranks)->all_reduce(reports);
  EXPECT_EQ(reports.data<double>()[0], 1.0);
}

TEST(Whereabouts, LongNamesAreCut) {
  const detail::ShortName name("sixteen letters and more");
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(name.words), 16), "sixteen letters ");
}

}  // namespace
}  // namespace hysparse
