/// The parameters of one mesh kind on one rank, laid end to end: one buffer of values and one of gradients, so
/// that a whole model's gradients are reduced, and its optimizer state sharded, in one collective.
///
///   | parameter 0 | parameter 1 |pad| parameter 2 | ...                    |pad|   gradients likewise
///   |   shard 0           |   shard 1           |   shard 2          | shard 3 |   one per rank of the data
///   axis
///
/// Each parameter, and each shard, begins at a multiple of 64 bytes; where parameters lie does not depend on
/// the number of shards. Padding is zero and stays zero.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/parameter.h"
#include "parallel/placement.h"

namespace hysparse {

/// A parameter as declared by the model: what the flat buffers and the optimizer need of it.
struct FlatParameter {
  std::string name;
  Shape global_shape;
  Placement placement;
  bool weight_decay = true;  ///< false for norms, sinks, biases, embeddings
};

/// Of the gradients of values of a dtype: f64 for f64, else f32.
DType gradient_dtype(DType value_dtype);

class FlatBuffer {
 public:
  struct Entry {
    FlatParameter declared;
    Box box;                 ///< the part of the global parameter that is here; box.shape is the local shape
    std::int64_t begin = 0;  ///< first element in the buffers
    std::int64_t numel = 0;
  };
  /// Elements [begin, end) of the local, flattened parameter entries()[entry].
  struct Piece {
    std::size_t entry;
    std::int64_t begin, end;
  };

  /// Where parameters lie in the buffers of a rank, without memory for them.
  struct Layout {
    std::vector<Entry> entries;
    std::int64_t numel = 0;  ///< with padding
  };
  /// What the constructor makes of the same arguments.
  static Layout lay_out(MeshKind kind, const std::vector<FlatParameter>& declared, const Mesh& mesh, int rank,
                        DType value_dtype);

  /// Lays out those of `declared` that lie on this kind of mesh and on the rank's stage, in their order. Values
  /// (in value_dtype) and gradients (in gradient_dtype) are zero. Without `gradients` (evaluation,
  /// export) there are none: gradients() and the parameters' grad are undefined.
  FlatBuffer(MeshKind kind, const std::vector<FlatParameter>& declared, const Mesh& mesh, int rank,
             DType value_dtype, bool gradients = true, Device device = {});

  MeshKind kind() const { return kind_; }
  const std::vector<Entry>& entries() const { return entries_; }
  /// Views of one parameter's value and gradient.
  Parameter parameter(std::size_t entry) const;
  /// By name; throws CheckFailure when it is not here.
  Parameter parameter(std::string_view name) const;

  std::int64_t numel() const { return values_.numel(); }  ///< with padding
  int shards() const { return shards_; }                  ///< size of the data axis
  int shard() const { return shard_; }                    ///< this rank's
  std::int64_t shard_numel() const { return numel() / shards_; }
  std::int64_t shard_begin() const { return shard_ * shard_numel(); }

  const Tensor& values() const { return values_; }        ///< flat
  const Tensor& gradients() const { return gradients_; }  ///< flat
  Tensor value_shard() const { return shard_of(values_); }
  Tensor gradient_shard() const { return shard_of(gradients_); }

  /// What the flat elements [begin, end) cover, in order, padding left out.
  std::vector<Piece> pieces(std::int64_t begin, std::int64_t end) const;
  /// The same for this rank's shard.
  std::vector<Piece> shard_pieces() const { return pieces(shard_begin(), shard_begin() + shard_numel()); }

 private:
  Tensor shard_of(const Tensor& flat) const { return flat.slice(shard_begin(), shard_begin() + shard_numel()); }

  MeshKind kind_;
  std::vector<Entry> entries_;
  int shards_, shard_;
  Tensor values_, gradients_;
};

}  // namespace hysparse
