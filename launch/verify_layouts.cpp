#include "launch/verify_layouts.h"

#include <algorithm>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "core/error.h"
#include "launch/config.h"
#include "launch/nearest.h"
#include "launch/yaml_values.h"

namespace hysparse {
namespace {

constexpr int most_ranks = 1 << 15;

const char* recompute_name(Recompute recompute) {
  switch (recompute) {
    case Recompute::selective:
      return "selective";
    case Recompute::layer:
      return "layer";
    case Recompute::none:
      break;
  }
  return "none";
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    std::string part = text.substr(begin, end - begin);
    const std::size_t first = part.find_first_not_of(' ');
    part = first == std::string::npos ? "" : part.substr(first, part.find_last_not_of(' ') + 1 - first);
    parts.push_back(part);
    begin = end + 1;
  }
  return parts;
}

/// One layout's words into a layout.
class LayoutReader {
 public:
  LayoutReader(const std::string& text, std::vector<std::string>& problems)
      : text_(text), problems_(problems) {}

  VerifyLayout read() {
    for (const std::string& part : split(text_, ',')) {
      const std::size_t equals = part.find('=');
      const std::string name = part.substr(0, equals);
      if (!seen_.insert(name).second) {
        problem(fmt::format("{}: given twice", name));
      } else if (equals == std::string::npos) {
        word(name);
      } else {
        value(name, part.substr(equals + 1));
      }
    }
    if (!seen_.contains("dp")) {
      const int experts = layout_.mesh.ep * layout_.mesh.etp;
      layout_.dp = experts / std::gcd(experts, layout_.mesh.tp);
    }
    return layout_;
  }

 private:
  void problem(const std::string& text) { problems_.push_back(fmt::format("--layouts: {}: {}", text_, text)); }

  void word(const std::string& name) {
    if (name == "sp") {
      layout_.sequence_parallel = true;
    } else if (name == "interleaved") {
      layout_.virtual_stages = 2;
    } else if (name.empty()) {
      problem("a layout is a list like tp=2,sp,pp=2");
    } else {
      problem(fmt::format("{}: unknown word; must be sp, interleaved or NAME=VALUE", name));
    }
  }

  void value(const std::string& name, const std::string& text) {
    if (name == "recompute") return recompute(text);
    const std::vector<std::pair<std::string, int*>> sizes = {{"tp", &layout_.mesh.tp},
                                                             {"pp", &layout_.mesh.pp},
                                                             {"dp", &layout_.dp},
                                                             {"ep", &layout_.mesh.ep},
                                                             {"etp", &layout_.mesh.etp}};
    const std::int64_t size = parse_integer(text).value_or(0);
    const auto found = std::find_if(sizes.begin(), sizes.end(), [&](const auto& s) { return s.first == name; });
    if (found == sizes.end() && name != "interleaved") {
      const std::vector<std::string> names = {"tp", "pp", "dp", "ep", "etp", "interleaved", "recompute"};
      problem(fmt::format("{}: unknown name; must be one of {}{}", name, fmt::join(names, ", "),
                          suggestion(nearest_name(name, names))));
    } else if (size < 1 || size > most_ranks) {
      problem(fmt::format("{}: {}: must be a positive integer", name, text));
    } else if (name == "interleaved") {
      layout_.virtual_stages = size;
    } else {
      *found->second = static_cast<int>(size);
    }
  }

  void recompute(const std::string& text) {
    for (const Recompute r : {Recompute::none, Recompute::selective, Recompute::layer}) {
      if (text != recompute_name(r)) continue;
      layout_.recompute = r;
      return;
    }
    problem(fmt::format("recompute: {}: must be one of none, selective, layer{}", text,
                        suggestion(nearest_name(text, {"none", "selective", "layer"}))));
  }

  const std::string& text_;
  std::vector<std::string>& problems_;
  VerifyLayout layout_;
  std::set<std::string> seen_;
};

/// tp=a, pp=b, dp=c with every ep, etp, schedule and sequence parallelism.
void add_variants(const VerifyLayout& base, const RunConfig& config, std::vector<VerifyLayout>& list) {
  for (const int ep : {1, 2, 4, 8}) {
    for (const int etp : {1, 2}) {
      if (base.mesh.tp * base.dp % (ep * etp) != 0 || (ep * etp > 1 && !config.model.moe)) continue;
      for (const bool sequence_parallel : {false, true}) {
        if (sequence_parallel && base.mesh.tp == 1) continue;
        for (const int virtual_stages : {1, 2}) {
          if (virtual_stages > 1 && base.mesh.pp == 1) continue;
          VerifyLayout layout = base;
          layout.mesh.ep = ep;
          layout.mesh.etp = etp;
          layout.sequence_parallel = sequence_parallel;
          layout.virtual_stages = virtual_stages;
          if (layout.problems(config).empty()) list.push_back(layout);
        }
      }
    }
  }
}

}  // namespace

std::string VerifyLayout::name() const {
  std::vector<std::string> words;
  const auto size = [&](const char* name, int n) {
    if (n > 1) words.push_back(fmt::format("{}={}", name, n));
  };
  size("tp", mesh.tp);
  if (sequence_parallel) words.push_back("sp");
  size("pp", mesh.pp);
  if (interleaved()) words.push_back(fmt::format("interleaved={}", virtual_stages));
  size("dp", dp);
  size("ep", mesh.ep);
  size("etp", mesh.etp);
  if (recompute != Recompute::none) words.push_back(fmt::format("recompute={}", recompute_name(recompute)));
  return words.empty() ? "dp=1" : fmt::format("{}", fmt::join(words, ","));
}

std::vector<std::string> VerifyLayout::overrides() const {
  return {fmt::format("parallel.tp={}", mesh.tp),
          fmt::format("parallel.pp={}", mesh.pp),
          fmt::format("parallel.cp={}", mesh.cp),
          fmt::format("parallel.ep={}", mesh.ep),
          fmt::format("parallel.etp={}", mesh.etp),
          fmt::format("parallel.sequence_parallel={}", sequence_parallel),
          fmt::format("parallel.schedule={}", interleaved() ? "interleaved" : "1f1b"),
          fmt::format("parallel.virtual_stages={}", virtual_stages),
          fmt::format("train.recompute={}", recompute_name(recompute))};
}

std::vector<std::string> VerifyLayout::problems(const RunConfig& config) const {
  RunConfig changed = config;
  changed.parallel.mesh = mesh;
  changed.parallel.sequence_parallel = sequence_parallel;
  changed.parallel.schedule =
      interleaved() ? RunConfig::PipelineSchedule::interleaved : RunConfig::PipelineSchedule::one_f_one_b;
  changed.parallel.virtual_stages = virtual_stages;
  changed.train.recompute = recompute;
  std::erase_if(changed.origins, [](const auto& origin) {
    return origin.first.starts_with("parallel.") || origin.first == "train.recompute";
  });
  return validate(changed, world());
}

std::vector<VerifyLayout> parse_layouts(const std::string& text, int np) {
  std::vector<VerifyLayout> layouts;
  std::vector<std::string> problems;
  std::set<std::string> names;
  for (const std::string& part : split(text, ';')) {
    const std::size_t before = problems.size();
    const VerifyLayout layout = LayoutReader(part, problems).read();
    if (problems.size() > before) continue;
    const std::int64_t world = std::int64_t{layout.mesh.tp} * layout.mesh.pp * layout.dp;
    if (world > np) {
      problems.push_back(fmt::format("--layouts: {}: needs {} ranks (tp {} x pp {} x dp {}), --np is {}", part,
                                     world, layout.mesh.tp, layout.mesh.pp, layout.dp, np));
    } else if (!names.insert(layout.name()).second) {
      problems.push_back(fmt::format("--layouts: {}: the same layout twice", part));
    } else {
      layouts.push_back(layout);
    }
  }
  if (!problems.empty()) throw Error(std::move(problems));
  return layouts;
}

std::vector<VerifyLayout> all_layouts(const RunConfig& config, int np) {
  std::vector<VerifyLayout> candidates;
  for (const int tp : {1, 2, 4}) {
    for (const int pp : {1, 2, 3}) {
      for (const int dp : {1, 2, 4, 8}) {
        VerifyLayout base;
        base.mesh.tp = tp;
        base.mesh.pp = pp;
        base.dp = dp;
        if (base.world() <= np) add_variants(base, config, candidates);
      }
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const auto& a, const auto& b) { return a.world() < b.world(); });
  constexpr Recompute recomputes[] = {Recompute::none, Recompute::selective, Recompute::layer};
  std::vector<VerifyLayout> layouts;
  std::size_t turn = 0;
  for (VerifyLayout& layout : candidates) {
    if (layout.world() == 1) {  // none is the reference itself
      for (const Recompute r : {Recompute::selective, Recompute::layer}) {
        layout.recompute = r;
        if (layout.problems(config).empty()) layouts.push_back(layout);
      }
      continue;
    }
    layout.recompute = recomputes[turn++ % 3];
    if (!layout.problems(config).empty()) layout.recompute = Recompute::none;
    layouts.push_back(layout);
  }
  return layouts;
}

std::vector<VerifyLayout> quick_layouts(const RunConfig& config, int np) {
  static constexpr const char* dozen =
      "dp=1,recompute=layer;"
      "dp=2,ep=2,recompute=selective;"
      "tp=2;"
      "tp=2,sp,ep=2,recompute=layer;"
      "pp=2,interleaved,recompute=selective;"
      "pp=3,recompute=layer;"
      "tp=4,recompute=selective;"
      "tp=2,sp,dp=2,ep=2,etp=2;"
      "tp=2,sp,pp=3,ep=2,recompute=selective;"
      "dp=8,ep=8;"
      "tp=4,sp,dp=2,ep=4,etp=2,recompute=layer;"
      "tp=2,sp,pp=2,interleaved,dp=2,ep=4";
  std::vector<VerifyLayout> layouts;
  std::set<std::string> names;
  for (VerifyLayout layout : parse_layouts(dozen, 8)) {
    if (!config.model.moe) layout.mesh.ep = layout.mesh.etp = 1;
    if (layout.world() <= np && layout.problems(config).empty() && names.insert(layout.name()).second)
      layouts.push_back(layout);
  }
  return layouts;
}

std::vector<VerifyLayout> chosen_layouts(const std::string& text, const RunConfig& config, int np) {
  if (text == "all" || text == "quick") {
    std::vector<VerifyLayout> layouts = text == "all" ? all_layouts(config, np) : quick_layouts(config, np);
    if (layouts.empty())
      throw_error("--layouts: {}: none fits {} ranks and this config; name one to see why", text, np);
    return layouts;
  }
  const std::vector<VerifyLayout> layouts = parse_layouts(text, np);
  std::vector<std::string> problems;
  for (const VerifyLayout& layout : layouts) {
    for (const std::string& problem : layout.problems(config))
      problems.push_back(fmt::format("--layouts: {}: {}", layout.name(), problem));
  }
  if (!problems.empty()) throw Error(std::move(problems));
  return layouts;
}

}  // namespace hysparse
