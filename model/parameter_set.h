/// The parameters of one rank: its declarations with their boxes, values and gradients. Values and gradients of
/// trainable parameters lie in two flat buffers (dense and expert), which the sharded optimizer works on;
/// buffers (the router's correction bias) lie apart.
#pragma once

#include <deque>
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

  /// Zeros, of `dtype` (f32 or f64), for the part of the mesh that `rank` holds; with gradient buffers when
  /// `gradients`.
  ParameterSet(const ModelConfig& config, const Mesh& mesh, int rank, DType dtype, bool gradients);
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  /// Null when there is no parameter of that name.
  const Parameter* find(const std::string& name) const;
  const Parameter& get(const std::string& name) const;
  const std::deque<Entry>& entries() const { return entries_; }
  const Entry& entry(const std::string& name) const;

  DType dtype() const { return dtype_; }
  FlatBuffer& dense() { return dense_; }
  FlatBuffer& experts() { return experts_; }

  void zero_gradients();
  /// Initial values: see declaration.h.
  void initialize(std::uint64_t seed);

 private:
  ParameterSet(const std::vector<ParameterDeclaration>& declarations, const Mesh& mesh, int rank, DType dtype,
               bool gradients);

  DType dtype_;
  std::deque<Entry> entries_;  // stable addresses: layers point at parameters
  std::unordered_map<std::string, Entry*> by_name_;
  FlatBuffer dense_, experts_;
};

}  // namespace hysparse
