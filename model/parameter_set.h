/// The parameters of one rank: its declarations with their boxes, values and gradients. Values and gradients of
/// trainable parameters lie in flat buffers (model/buckets.h), which the sharded optimizer works on; buffers
/// without gradient (the router's correction bias) lie apart.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/declaration.h"
#include "parallel/flat_buffer.h"
#include "parallel/mesh.h"

namespace hysparse {

class ParameterSet {
 public:
  struct Entry {
    ParameterDeclaration declaration;
    Box box;  ///< this rank's part, in global coordinates
    Parameter parameter;
  };
  struct Bucket {
    FlatBuffer buffer;
    std::int64_t first_layer;  ///< its gradients are complete when backward has passed this layer; -1: the
                               ///< embedding, when it is at its end
    int chunk;                 ///< global pipeline chunk
  };

  /// Zeros, of `dtype` (f32 or f64; on a GPU bf16 or f32), for the part of the model that `rank` holds; with
  /// gradient buffers when `gradients`. Those without gradient are f32 (f64) always.
  ParameterSet(const ModelConfig& config, const Mesh& mesh, int rank, DType dtype, bool gradients,
               const ModelLayout& layout = {}, Device device = {});
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  /// Null when there is no parameter of that name on this rank.
  const Parameter* find(const std::string& name) const;
  const Parameter& get(const std::string& name) const;
  /// What this rank holds.
  const std::deque<Entry>& entries() const { return entries_; }
  const Entry& entry(const std::string& name) const;
  /// Of the whole model, held here or not.
  const std::vector<ParameterDeclaration>& declarations() const { return declarations_; }

  DType dtype() const { return dtype_; }
  /// In the order of the forward pass.
  const std::vector<Bucket>& buckets() const { return buckets_; }
  std::vector<const FlatBuffer*> buffers() const;

  void zero_gradients();
  /// Initial values: see declaration.h.
  void initialize(std::uint64_t seed);

 private:
  DType dtype_;
  std::vector<ParameterDeclaration> declarations_;
  std::deque<Entry> entries_;  // stable addresses: layers point at parameters
  std::unordered_map<std::string, Entry*> by_name_;
  std::vector<Bucket> buckets_;
};

}  // namespace hysparse
