/// The mesh: which rank does what. Pure arithmetic, no communication.
///
///   dense parts:  world = pp * dp * cp * tp     rank = ((pp_i * dp + dp_i) * cp + cp_i) * tp + tp_i
///   experts:      world = pp * edp * ep * etp   rank = ((pp_i * edp + edp_i) * ep + ep_i) * etp + etp_i
///
/// The same ranks lie on both (folding: ep may span dp, cp and tp). "axis" is for meshes, "dim" for tensors.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hysparse {

/// dp_cp is dp and cp taken together (coordinate dp_i * cp + cp_i): the ranks that hold the same dense
/// parameters, over which their gradients are summed and their optimizer state is sharded. ep_etp is ep and etp
/// taken together (coordinate ep_i * etp + etp_i): the ranks that hold one copy of the experts between them.
/// stage is everything but pp (coordinate (dp_i * cp + cp_i) * tp + tp_i): the ranks of one pipeline stage.
enum class Axis { pp, dp, cp, tp, dp_cp, edp, ep, etp, ep_etp, stage, world };
std::string_view axis_name(Axis axis);

struct MeshConfig {
  int tp = 1, pp = 1, cp = 1, ep = 1, etp = 1;
};

class Mesh {
 public:
  /// Throws Error, naming every factor and the nearest sizes that work, when a size is not positive, when
  /// tp*cp*pp or ep*etp*pp does not divide the world.
  Mesh(const MeshConfig& config, int world);

  int world() const { return world_; }
  /// Number of ranks along an axis.
  int size(Axis axis) const;
  /// Coordinate of a rank on an axis (Axis::world: the rank itself).
  int coordinate(Axis axis, int rank) const;
  /// The ranks that differ from `rank` on this axis only, itself included, in order of coordinate.
  std::vector<int> group(Axis axis, int rank) const;
  /// Every group of an axis, each once, in one order that all ranks agree on.
  std::vector<std::vector<int>> groups(Axis axis) const;
  /// "world 8 = pp 1 x dp 4 x cp 1 x tp 2 = pp 1 x edp 1 x ep 8 x etp 1".
  std::string str() const;

 private:
  /// An axis as digits of the rank: coordinate = rank / stride % size.
  struct Digit {
    int size;
    int stride;
  };
  Digit digit(Axis axis) const;

  int world_, pp_, dp_, cp_, tp_, edp_, ep_, etp_;
};

}  // namespace hysparse
