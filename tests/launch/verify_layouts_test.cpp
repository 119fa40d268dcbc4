// The layouts of `hysparse verify`: how they are written, and that "all" and "quick" hold what they promise.
#include "launch/verify_layouts.h"

#include <algorithm>
#include <functional>
#include <set>

#include <gtest/gtest.h>

#include "core/error.h"
#include "launch/config.h"

namespace hysparse {
namespace {

RunConfig config_of(const std::string& name) {
  return load_config(HYSPARSE_SOURCE_DIR "/configs/verify/" + name + ".yaml", {"data.train=tokens.h5"}, 1);
}

std::vector<std::string> names_of(const std::vector<VerifyLayout>& layouts) {
  std::vector<std::string> names;
  for (const VerifyLayout& layout : layouts) names.push_back(layout.name());
  return names;
}

std::vector<std::string> problems_of(const std::string& text, int np = 8) {
  try {
    parse_layouts(text, np);
  } catch (const Error& e) {
    return e.problems();
  }
  return {};
}

TEST(VerifyLayouts, ReadAndWritten) {
  const VerifyLayout layout =
      parse_layouts("dp=2, tp=2,sp,pp=2,interleaved=3,ep=4,etp=1,recompute=layer", 8).at(0);
  EXPECT_EQ(layout.mesh.tp, 2);
  EXPECT_EQ(layout.mesh.pp, 2);
  EXPECT_EQ(layout.dp, 2);
  EXPECT_EQ(layout.mesh.ep, 4);
  EXPECT_EQ(layout.mesh.etp, 1);
  EXPECT_TRUE(layout.sequence_parallel);
  EXPECT_EQ(layout.virtual_stages, 3);
  EXPECT_EQ(layout.recompute, Recompute::layer);
  EXPECT_EQ(layout.world(), 8);
  EXPECT_EQ(layout.name(), "tp=2,sp,pp=2,interleaved=3,dp=2,ep=4,recompute=layer");
  EXPECT_EQ(VerifyLayout{}.name(), "dp=1");
  EXPECT_EQ(names_of(parse_layouts("tp=2,pp=2;dp=4", 8)), (std::vector<std::string>{"tp=2,pp=2", "dp=4"}));
}

TEST(VerifyLayouts, RoomForExpertsWithoutDp) {
  EXPECT_EQ(parse_layouts("ep=8", 8).at(0).dp, 8);
  EXPECT_EQ(parse_layouts("tp=2,ep=4", 8).at(0).dp, 2);
  EXPECT_EQ(parse_layouts("tp=4,ep=2,etp=2", 8).at(0).dp, 1);
  EXPECT_EQ(parse_layouts("tp=2,ep=2,etp=2,pp=2", 8).at(0).dp, 2);
}

TEST(VerifyLayouts, Mistakes) {
  using Problems = std::vector<std::string>;
  EXPECT_EQ(
      problems_of("tp=2;size=3;"),
      (Problems{
          "--layouts: size=3: size: unknown name; must be one of tp, pp, dp, ep, etp, interleaved, recompute",
          "--layouts: : a layout is a list like tp=2,sp,pp=2"}));
  EXPECT_EQ(problems_of("tp=0"), Problems{"--layouts: tp=0: tp: 0: must be a positive integer"});
  EXPECT_EQ(problems_of("tp=99999"), Problems{"--layouts: tp=99999: tp: 99999: must be a positive integer"});
  EXPECT_EQ(problems_of("tp=2,tp=2"), Problems{"--layouts: tp=2,tp=2: tp: given twice"});
  EXPECT_EQ(problems_of("tp"),
            Problems{"--layouts: tp: tp: unknown word; must be sp, interleaved or NAME=VALUE"});
  EXPECT_EQ(
      problems_of("recompute=layers"),
      Problems{"--layouts: recompute=layers: recompute: layers: must be one of none, selective, layer; did "
               "you mean layer?"});
  EXPECT_EQ(problems_of("tp=4,dp=4"),
            Problems{"--layouts: tp=4,dp=4: needs 16 ranks (tp 4 x pp 1 x dp 4), --np is 8"});
  EXPECT_EQ(problems_of("dp=2,tp=1;dp=2"), Problems{"--layouts: dp=2: the same layout twice"});
}

TEST(VerifyLayouts, ImpossibleOnesAreRefusedByName) {
  try {
    chosen_layouts("tp=2;dp=2,ep=2", config_of("dense"), 8);
    FAIL() << "a dense model has no experts to spread";
  } catch (const Error& e) {
    ASSERT_EQ(e.problems().size(), 1u);
    EXPECT_EQ(e.problems()[0].rfind("--layouts: dp=2,ep=2: parallel.ep: 2: ", 0), 0u) << e.problems()[0];
  }
  EXPECT_EQ(chosen_layouts("tp=2;dp=2", config_of("dense"), 8).size(), 2u);
}

/// The value of one dimension of a layout, as text.
struct Dimension {
  const char* name;
  std::function<std::string(const VerifyLayout&)> of;
};

std::vector<Dimension> dimensions() {
  const auto number = [](auto member) {
    return [member](const VerifyLayout& l) { return std::to_string(member(l)); };
  };
  return {{"tp", number([](const VerifyLayout& l) { return l.mesh.tp; })},
          {"pp", number([](const VerifyLayout& l) { return l.mesh.pp; })},
          {"dp", number([](const VerifyLayout& l) { return l.dp; })},
          {"ep", number([](const VerifyLayout& l) { return l.mesh.ep; })},
          {"etp", number([](const VerifyLayout& l) { return l.mesh.etp; })},
          {"sp",
           [](const VerifyLayout& l) { return l.mesh.tp == 1        ? "no tp"
                                              : l.sequence_parallel ? "on"
                                                                    : "off"; }},
          {"schedule", [](const VerifyLayout& l) {
             return l.mesh.pp == 1 ? "no pp" : l.interleaved() ? "interleaved" : "1f1b";
           }}};
}

TEST(VerifyLayouts, AllOfTheSmallConfig) {
  const RunConfig config = config_of("hysparse");
  const std::vector<VerifyLayout> all = all_layouts(config, 8);
  EXPECT_GE(all.size(), 40u);
  const std::vector<std::string> names = names_of(all);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end(),
                             [](const auto& a, const auto& b) { return a.world() < b.world(); }));
  EXPECT_EQ(names_of(all_layouts(config, 8)), names);
  std::map<std::string, std::set<std::string>> seen;
  std::map<std::string, std::set<Recompute>> recomputes;  // of each value of each dimension
  for (const VerifyLayout& layout : all) {
    EXPECT_LE(layout.world(), 8);
    EXPECT_GE(config.train.global_batch_size / layout.dp / config.train.micro_batch_size, 2) << layout.name();
    for (const Dimension& d : dimensions()) {
      seen[d.name].insert(d.of(layout));
      recomputes[std::string(d.name) + "=" + d.of(layout)].insert(layout.recompute);
    }
  }
  using Values = std::set<std::string>;
  EXPECT_EQ(seen["tp"], (Values{"1", "2", "4"}));
  EXPECT_EQ(seen["pp"], (Values{"1", "2", "3"}));
  EXPECT_EQ(seen["dp"], (Values{"1", "2", "4", "8"}));
  EXPECT_EQ(seen["ep"], (Values{"1", "2", "4", "8"}));
  EXPECT_EQ(seen["etp"], (Values{"1", "2"}));
  EXPECT_EQ(seen["sp"], (Values{"no tp", "off", "on"}));
  EXPECT_EQ(seen["schedule"], (Values{"no pp", "1f1b", "interleaved"}));
  for (const auto& [value, found] : recomputes) EXPECT_EQ(found.size(), 3u) << value;
}

TEST(VerifyLayouts, AllOfFewerRanksIsThePartThatFits) {
  const RunConfig config = config_of("hysparse");
  const std::vector<std::string> all = names_of(all_layouts(config, 8)), few = names_of(all_layouts(config, 4));
  ASSERT_LT(few.size(), all.size());
  EXPECT_TRUE(std::equal(few.begin(), few.end(), all.begin()));
}

TEST(VerifyLayouts, EveryConfigHasManyAndQuickOnes) {
  for (const char* name : {"hysparse", "hybrid_swa", "full", "dense"}) {
    const RunConfig config = config_of(name);
    EXPECT_GE(all_layouts(config, 8).size(), 40u) << name;
    const std::vector<VerifyLayout> quick = quick_layouts(config, 8);
    EXPECT_GE(quick.size(), 11u) << name;
    for (const VerifyLayout& layout : quick) EXPECT_TRUE(layout.problems(config).empty()) << layout.name();
  }
  EXPECT_EQ(quick_layouts(config_of("hysparse"), 8).size(), 12u);
}

TEST(VerifyLayouts, QuickOnesCoverEverything) {
  std::map<std::string, std::set<std::string>> seen;
  std::set<Recompute> recomputes;
  for (const VerifyLayout& layout : quick_layouts(config_of("hysparse"), 8)) {
    for (const Dimension& d : dimensions()) seen[d.name].insert(d.of(layout));
    recomputes.insert(layout.recompute);
  }
  EXPECT_EQ(seen["tp"].size() + seen["pp"].size() + seen["sp"].size() + seen["schedule"].size(), 12u);
  EXPECT_EQ(seen["ep"].size() + seen["etp"].size(), 6u);
  EXPECT_EQ(recomputes.size(), 3u);
}

}  // namespace
}  // namespace hysparse
