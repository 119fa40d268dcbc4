#include "parallel/mesh.h"

#include <algorithm>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/parallel/meshes.h"

namespace hysparse {
namespace {

using testing::all_meshes;

constexpr Axis axes[] = {Axis::pp, Axis::dp,  Axis::cp,     Axis::tp,    Axis::dp_cp, Axis::edp,
                         Axis::ep, Axis::etp, Axis::ep_etp, Axis::stage, Axis::world};

std::string problems_of(const MeshConfig& config, int world) {
  try {
    Mesh mesh(config, world);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Mesh, FactorsMultiplyToTheWorldAndRanksFollowTheFormula) {
  for (const Mesh& m : all_meshes()) {
    const auto n = [&](Axis a) { return m.size(a); };
    ASSERT_EQ(n(Axis::pp) * n(Axis::dp) * n(Axis::cp) * n(Axis::tp), m.world()) << m.str();
    ASSERT_EQ(n(Axis::pp) * n(Axis::edp) * n(Axis::ep) * n(Axis::etp), m.world()) << m.str();
    ASSERT_EQ(n(Axis::dp_cp), n(Axis::dp) * n(Axis::cp));
    ASSERT_EQ(n(Axis::ep_etp), n(Axis::ep) * n(Axis::etp));
    ASSERT_EQ(n(Axis::stage) * n(Axis::pp), m.world());
    for (int r = 0; r < m.world(); ++r) {
      const auto c = [&](Axis a) { return m.coordinate(a, r); };
      ASSERT_EQ(
          ((c(Axis::pp) * n(Axis::dp) + c(Axis::dp)) * n(Axis::cp) + c(Axis::cp)) * n(Axis::tp) + c(Axis::tp),
          r);
      ASSERT_EQ(((c(Axis::pp) * n(Axis::edp) + c(Axis::edp)) * n(Axis::ep) + c(Axis::ep)) * n(Axis::etp) +
                    c(Axis::etp),
                r);
      ASSERT_EQ(c(Axis::dp_cp), c(Axis::dp) * n(Axis::cp) + c(Axis::cp));
      ASSERT_EQ(c(Axis::ep_etp), c(Axis::ep) * n(Axis::etp) + c(Axis::etp));
      ASSERT_EQ(c(Axis::stage), c(Axis::dp_cp) * n(Axis::tp) + c(Axis::tp));
      ASSERT_EQ(c(Axis::world), r);
    }
  }
}

TEST(Mesh, GroupsPartitionTheWorldAndMembersDifferOnTheirAxisOnly) {
  const std::vector<Axis> dense{Axis::pp, Axis::dp, Axis::cp, Axis::tp},
      expert{Axis::pp, Axis::edp, Axis::ep, Axis::etp};
  for (const Mesh& m : all_meshes()) {
    for (const Axis axis : axes) {
      std::vector<int> seen;
      for (const std::vector<int>& group : m.groups(axis)) {
        ASSERT_EQ(static_cast<int>(group.size()), m.size(axis));
        for (std::size_t i = 0; i < group.size(); ++i) {
          ASSERT_EQ(m.coordinate(axis, group[i]), static_cast<int>(i)) << m.str() << " " << axis_name(axis);
          ASSERT_EQ(m.group(axis, group[i]), group);
          for (const std::vector<Axis>& mesh_axes : {dense, expert}) {
            if (std::find(mesh_axes.begin(), mesh_axes.end(), axis) == mesh_axes.end()) continue;
            for (const Axis other : mesh_axes) {
              if (other == axis) continue;
              ASSERT_EQ(m.coordinate(other, group[i]), m.coordinate(other, group[0]));
            }
          }
        }
        seen.insert(seen.end(), group.begin(), group.end());
      }
      std::sort(seen.begin(), seen.end());
      std::vector<int> all(static_cast<std::size_t>(m.world()));
      std::iota(all.begin(), all.end(), 0);
      ASSERT_EQ(seen, all) << m.str() << " " << axis_name(axis);
    }
  }
}

TEST(Mesh, FoldsExpertsOverDataAndTensorRanks) {
  const Mesh m({.tp = 2, .ep = 8}, 8);
  EXPECT_EQ(m.str(), "world 8 = pp 1 x dp 4 x cp 1 x tp 2 = pp 1 x edp 1 x ep 8 x etp 1");
  EXPECT_EQ(m.group(Axis::ep, 3), (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(m.group(Axis::dp, 3), (std::vector<int>{1, 3, 5, 7}));
}

TEST(Mesh, TakesExpertAxesTogetherAndStagesWhole) {
  const Mesh m({.tp = 2, .pp = 2, .ep = 2, .etp = 2}, 16);
  EXPECT_EQ(m.group(Axis::ep_etp, 5), (std::vector<int>{4, 5, 6, 7}));
  EXPECT_EQ(m.group(Axis::ep_etp, 13), (std::vector<int>{12, 13, 14, 15}));
  EXPECT_EQ(m.group(Axis::stage, 9), (std::vector<int>{8, 9, 10, 11, 12, 13, 14, 15}));
  for (int r = 0; r < 16; ++r) {
    for (const int mate : m.group(Axis::stage, r)) {
      EXPECT_EQ(m.coordinate(Axis::pp, mate), m.coordinate(Axis::pp, r));
    }
    for (const int mate : m.group(Axis::ep_etp, r)) {
      EXPECT_EQ(m.coordinate(Axis::pp, mate), m.coordinate(Axis::pp, r));
      EXPECT_EQ(m.coordinate(Axis::edp, mate), m.coordinate(Axis::edp, r));
    }
  }
}

TEST(Mesh, RefusalsNameEveryFactorAndTheNearestSizes) {
  const std::string tp = problems_of({.tp = 4}, 6);
  for (const char* part : {"world size 6", "parallel.tp * parallel.cp * parallel.pp = 4 * 1 * 1 = 4",
                           "worlds that work are 4 and 8", "parallel.tp 3 or 6 fits 6 ranks"}) {
    EXPECT_NE(tp.find(part), std::string::npos) << part << " in: " << tp;
  }
  const std::string ep = problems_of({.ep = 3, .etp = 2}, 4);
  for (const char* part : {"world size 4", "parallel.ep * parallel.etp * parallel.pp = 3 * 2 * 1 = 6",
                           "the nearest world that works is 6", "parallel.ep 2 fits 4 ranks"}) {
    EXPECT_NE(ep.find(part), std::string::npos) << part << " in: " << ep;
  }
}

TEST(Mesh, SuggestedWorldsWorkForBothMeshes) {
  // 6 is a multiple of tp 3 but not of ep 4: worlds that work are multiples of 12.
  const std::string text = problems_of({.tp = 3, .ep = 4}, 18);
  EXPECT_NE(text.find("worlds that work are 12 and 24"), std::string::npos) << text;
  EXPECT_EQ(problems_of({.tp = 3, .ep = 4}, 12), "");
  EXPECT_EQ(problems_of({.tp = 3, .ep = 4}, 24), "");
}

TEST(Mesh, SuggestedFactorsWork) {
  for (int world = 1; world <= 24; ++world) {
    for (int ep = 1; ep <= 30; ++ep) {
      const std::string text = problems_of({.ep = ep}, world);
      ASSERT_EQ(text.empty(), world % ep == 0);
      const std::string key = "parallel.ep ";
      const std::size_t at = text.find("; " + key);
      if (text.empty()) continue;
      ASSERT_NE(at, std::string::npos) << text;
      ASSERT_EQ(problems_of({.ep = std::stoi(text.substr(at + 2 + key.size()))}, world), "") << text;
    }
  }
}

TEST(Mesh, RefusesSizesBelowOneAndAbsurdOnes) {
  EXPECT_NE(problems_of({.tp = 0, .ep = -2}, 4).find("parallel.tp: 0: must be at least 1\nparallel.ep: -2:"),
            std::string::npos);
  EXPECT_NE(problems_of({}, 0).find("world size 0"), std::string::npos);
  EXPECT_NE(problems_of({.tp = 2147483647, .pp = 2147483647, .cp = 2147483647}, 4), "");
}

TEST(Mesh, OneRank) {
  const Mesh m({}, 1);
  for (const Axis axis : axes) {
    EXPECT_EQ(m.size(axis), 1);
    EXPECT_EQ(m.group(axis, 0), std::vector<int>{0});
  }
}

}  // namespace
}  // namespace hysparse
