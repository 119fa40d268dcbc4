#include "parallel/mesh.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "core/error.h"

namespace hysparse {
namespace {

struct Factor {
  const char* name;
  int size;
};

/// Product of positive sizes, at most `limit`, which is beyond any world (so that absurd sizes do not
/// overflow).
std::int64_t product(const std::vector<Factor>& factors) {
  constexpr std::int64_t limit = std::int64_t{1} << 31;
  std::int64_t result = 1;
  for (const Factor& f : factors) result = std::min(limit, result * f.size);
  return result;
}

/// "a", "a or b": the sizes of one factor, nearest to the one asked for on both sides, that make the product
/// divide the world while the others stay; "" when there are none.
std::string nearest_sizes(const std::vector<Factor>& factors, std::size_t which, int world) {
  std::int64_t others = 1;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    if (i != which) others *= factors[i].size;
    if (others > world) return "";
  }
  if (world % others != 0) return "";
  const std::int64_t room = world / others;
  const std::int64_t asked = factors[which].size;
  std::int64_t below = 0, above = 0;
  for (std::int64_t size = 1; size <= room; ++size) {
    if (room % size != 0) continue;
    if (size < asked) below = size;
    if (size > asked && above == 0) above = size;
  }
  if (below != 0 && above != 0) return fmt::format("{} or {}", below, above);
  return below != 0 ? fmt::format("{}", below) : above != 0 ? fmt::format("{}", above) : "";
}

/// "nearest worlds that work: 4 or 8".
std::string nearest_worlds(std::int64_t unit, int world) {
  const std::int64_t below = world / unit * unit;
  if (below == 0) return fmt::format("the nearest world that works is {}", unit);
  return fmt::format("the nearest worlds that work are {} and {}", below, below + unit);
}

std::string factor_problem(const char* rest, const std::vector<Factor>& factors, std::int64_t unit, int world) {
  std::string names, sizes, alternatives;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const Factor& f = factors[i];
    names += fmt::format("{}parallel.{}", i == 0 ? "" : " * ", f.name);
    sizes += fmt::format("{}{}", i == 0 ? "" : " * ", f.size);
    if (f.size == 1) continue;
    const std::string nearest = nearest_sizes(factors, i, world);
    if (!nearest.empty()) alternatives += fmt::format("; parallel.{} {} fits {} ranks", f.name, nearest, world);
  }
  return fmt::format("world size {} is not a multiple of {} = {} = {} (no whole number is left for {}): {}{}",
                     world, names, sizes, product(factors), rest, nearest_worlds(unit, world), alternatives);
}

}  // namespace

std::string_view axis_name(Axis axis) {
  switch (axis) {
    case Axis::pp:
      return "pp";
    case Axis::dp:
      return "dp";
    case Axis::cp:
      return "cp";
    case Axis::tp:
      return "tp";
    case Axis::dp_cp:
      return "dp_cp";
    case Axis::edp:
      return "edp";
    case Axis::ep:
      return "ep";
    case Axis::etp:
      return "etp";
    case Axis::ep_etp:
      return "ep_etp";
    case Axis::stage:
      return "stage";
    case Axis::world:
      return "world";
  }
  return "?";
}

Mesh::Mesh(const MeshConfig& config, int world)
    : world_(world), pp_(config.pp), cp_(config.cp), tp_(config.tp), ep_(config.ep), etp_(config.etp) {
  const std::vector<Factor> dense{{"tp", tp_}, {"cp", cp_}, {"pp", pp_}};
  const std::vector<Factor> expert{{"ep", ep_}, {"etp", etp_}, {"pp", pp_}};
  std::vector<std::string> problems;
  for (const Factor& f : {dense[0], dense[1], dense[2], expert[0], expert[1], Factor{"world", world}}) {
    if (f.size < 1) {
      const bool is_world = std::string_view(f.name) == "world";
      problems.push_back(is_world ? fmt::format("world size {}: must be at least 1", f.size)
                                  : fmt::format("parallel.{}: {}: must be at least 1", f.name, f.size));
    }
  }
  if (!problems.empty()) throw Error(problems);
  const std::int64_t dense_ranks = product(dense), expert_ranks = product(expert);
  // Worlds that work for both meshes are the multiples of the least common one.
  const std::int64_t unit = std::lcm(dense_ranks, expert_ranks);
  if (world % dense_ranks != 0) problems.push_back(factor_problem("dp", dense, unit, world));
  const bool said = !problems.empty() && ep_ * etp_ == 1;  // it is pp's fault, once
  if (world % expert_ranks != 0 && !said) problems.push_back(factor_problem("edp", expert, unit, world));
  if (!problems.empty()) throw Error(problems);
  dp_ = static_cast<int>(world / dense_ranks);
  edp_ = static_cast<int>(world / expert_ranks);
}

Mesh::Digit Mesh::digit(Axis axis) const {
  switch (axis) {
    case Axis::pp:
      return {pp_, dp_ * cp_ * tp_};
    case Axis::dp:
      return {dp_, cp_ * tp_};
    case Axis::cp:
      return {cp_, tp_};
    case Axis::tp:
      return {tp_, 1};
    case Axis::dp_cp:
      return {dp_ * cp_, tp_};
    case Axis::edp:
      return {edp_, ep_ * etp_};
    case Axis::ep:
      return {ep_, etp_};
    case Axis::etp:
      return {etp_, 1};
    case Axis::ep_etp:
      return {ep_ * etp_, 1};
    case Axis::stage:
      return {dp_ * cp_ * tp_, 1};
    case Axis::world:
      return {world_, 1};
  }
  HYSPARSE_CHECK(false, "axis {}", static_cast<int>(axis));
  return {};
}

int Mesh::size(Axis axis) const {
  return digit(axis).size;
}

int Mesh::coordinate(Axis axis, int rank) const {
  HYSPARSE_CHECK(rank >= 0 && rank < world_, "rank {} of {}", rank, world_);
  const Digit d = digit(axis);
  return rank / d.stride % d.size;
}

std::vector<int> Mesh::group(Axis axis, int rank) const {
  const Digit d = digit(axis);
  const int first = rank - coordinate(axis, rank) * d.stride;
  std::vector<int> ranks;
  for (int i = 0; i < d.size; ++i) ranks.push_back(first + i * d.stride);
  return ranks;
}

std::vector<std::vector<int>> Mesh::groups(Axis axis) const {
  std::vector<std::vector<int>> result;
  for (int rank = 0; rank < world_; ++rank) {
    if (coordinate(axis, rank) == 0) result.push_back(group(axis, rank));
  }
  return result;
}

std::string Mesh::str() const {
  return fmt::format("world {} = pp {} x dp {} x cp {} x tp {} = pp {} x edp {} x ep {} x etp {}", world_, pp_,
                     dp_, cp_, tp_, pp_, edp_, ep_, etp_);
}

}  // namespace hysparse
