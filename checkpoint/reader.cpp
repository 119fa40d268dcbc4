#include "checkpoint/reader.h"

#include "checkpoint/manifest.h"
#include "checkpoint/region.h"
#include "checkpoint/shard.h"
#include "checkpoint/stored_dtype.h"
#include "core/error.h"

namespace hysparse {

struct CheckpointReader::State {
  std::string directory;
  Manifest manifest;
  ShardFiles shards;

  const StoredTensor& get(const std::string& name) const {
    const auto at = manifest.tensors.find(name);
    if (at == manifest.tensors.end()) throw_error("{}: has no tensor {}", directory, name);
    return at->second;
  }
  void check_coverage(const std::string& name, const StoredTensor& tensor, const Box& box) const {
    if (const auto missing = uncovered(tensor, box)) {
      throw_error("{}: tensor {} {}: no shard holds {} at {}", directory, name, tensor.global_shape.str(),
                  missing->shape.str(), missing->offset.str());
    }
  }
};

CheckpointReader::CheckpointReader(std::string step_directory) {
  Manifest manifest = read_manifest(step_directory);
  check_shard_sizes(manifest, step_directory);
  ShardFiles shards(step_directory, manifest.shards);
  state_ = std::make_unique<State>(State{std::move(step_directory), std::move(manifest), std::move(shards)});
}

CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;

const std::string& CheckpointReader::directory() const {
  return state_->directory;
}

const CheckpointInfo& CheckpointReader::info() const {
  return state_->manifest.info;
}

std::vector<TensorInfo> CheckpointReader::tensors() const {
  std::vector<TensorInfo> all;
  for (const auto& [name, tensor] : state_->manifest.tensors)
    all.push_back({name, tensor.global_shape, tensor.dtype});
  return all;
}

bool CheckpointReader::contains(const std::string& name) const {
  return state_->manifest.tensors.contains(name);
}

void CheckpointReader::require(std::span<const TensorInfo> expected) const {
  std::string first;
  std::size_t count = 0;
  for (const TensorInfo& tensor : expected) {
    const auto at = state_->manifest.tensors.find(tensor.name);
    const bool there = at != state_->manifest.tensors.end();
    if (there && at->second.global_shape == tensor.global_shape) continue;
    if (++count > 1) continue;
    first = there ? fmt::format("tensor {} is {}, expected {}", tensor.name, at->second.global_shape.str(),
                                tensor.global_shape.str())
                  : fmt::format("has no tensor {} {}", tensor.name, tensor.global_shape.str());
  }
  if (count == 0) return;
  throw_error("{}: checkpoint of another model: {}{}", directory(), first,
              count > 1 ? fmt::format(" (and {} more tensors do not fit)", count - 1) : "");
}

void CheckpointReader::read(const std::string& name, const Box& box, const Tensor& out) {
  const StoredTensor& tensor = state_->get(name);
  HYSPARSE_CHECK(out.defined() && out.numel() == box.shape.numel() && out.device().is_cpu(),
                 "{}: box {}, tensor {}", name, box.shape.str(), out.shape().str());
  const bool is_same_rank =
      box.shape.rank() == tensor.global_shape.rank() && box.offset.rank() == tensor.global_shape.rank();
  Box inside;
  if (!is_same_rank ||
      (box.shape.numel() > 0 && !(intersect(box, whole_box(tensor.global_shape), &inside) && inside == box))) {
    throw_error("{}: tensor {} is {}, which does not contain {} at {}", directory(), name,
                tensor.global_shape.str(), box.shape.str(), box.offset.str());
  }
  if (!converts(stored_dtype(tensor.dtype), out.dtype())) {
    throw_error("{}: tensor {} is {}, which cannot be read as {}", directory(), name, dtype_name(tensor.dtype),
                dtype_name(out.dtype()));
  }
  state_->check_coverage(name, tensor, box);
  Region missing(box);
  for (const StoredPiece& piece : tensor.pieces) {
    if (!missing.touches(piece.box)) continue;
    state_->shards.read(name, tensor, piece, box, out);
    missing.remove(piece.box);
  }
}

Tensor CheckpointReader::read(const std::string& name, DType dtype) {
  const StoredTensor& tensor = state_->get(name);
  const Box box = whole_box(tensor.global_shape);
  state_->check_coverage(name, tensor, box);  // before the memory
  const Tensor out = Tensor::empty(tensor.global_shape, dtype);
  read(name, box, out);
  return out;
}

void CheckpointReader::verify() {
  for (std::size_t i = 0; i < state_->manifest.shards.size(); ++i) state_->shards.verify(static_cast<int>(i));
  for (const auto& [name, tensor] : state_->manifest.tensors) {
    state_->check_coverage(name, tensor, whole_box(tensor.global_shape));
    for (const StoredPiece& piece : tensor.pieces) state_->shards.check(name, tensor, piece);
  }
}

}  // namespace hysparse
