#include "checkpoint/reader.h"

#include "checkpoint/manifest.h"
#include "checkpoint/region.h"
#include "checkpoint/shard.h"
#include "checkpoint/shard_reader.h"
#include "checkpoint/stored_dtype.h"
#include "core/error.h"

namespace hysparse {

struct CheckpointReader::State {
  State(std::string step_directory, Manifest read, int threads)
      : directory(std::move(step_directory)), manifest(std::move(read)), shards(directory, manifest, threads) {}

  const std::string directory;
  const Manifest manifest;
  const ShardReader shards;

  const StoredTensor& get(const std::string& name) const {
    const auto at = manifest.tensors.find(name);
    if (at == manifest.tensors.end()) throw_error("{}: has no tensor {}", directory, name);
    return at->second;
  }
  /// "" when pieces cover the box.
  std::string gap_in(const std::string& name, const StoredTensor& tensor, const Box& box) const {
    const auto missing = uncovered(tensor, box);
    if (!missing) return "";
    return fmt::format("{}: tensor {} {}: no shard holds {} at {}", directory, name, tensor.global_shape.str(),
                       missing->shape.str(), missing->offset.str());
  }
  void check_coverage(const std::string& name, const StoredTensor& tensor, const Box& box) const {
    if (std::string gap = gap_in(name, tensor, box); !gap.empty()) throw DamagedCheckpoint(std::move(gap));
  }
  /// Throws Error unless the request is one that the tensor can answer.
  void check_request(const ReadRequest& request, const StoredTensor& tensor) const;
};

CheckpointReader::CheckpointReader(std::string step_directory, int threads) {
  Manifest manifest = read_manifest(step_directory);
  check_shard_sizes(manifest, step_directory);
  state_ = std::make_unique<State>(std::move(step_directory), std::move(manifest), threads);
}

CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;

const std::string& CheckpointReader::directory() const {
  return state_->directory;
}

const Manifest& CheckpointReader::manifest() const {
  return state_->manifest;
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

void CheckpointReader::State::check_request(const ReadRequest& request, const StoredTensor& tensor) const {
  const auto& [name, box, out] = request;
  HYSPARSE_CHECK(out.defined() && out.numel() == box.shape.numel() && out.device().is_cpu(),
                 "{}: box {}, tensor {}", name, box.shape.str(), out.shape().str());
  const bool is_same_rank =
      box.shape.rank() == tensor.global_shape.rank() && box.offset.rank() == tensor.global_shape.rank();
  Box inside;
  if (!is_same_rank ||
      (box.shape.numel() > 0 && !(intersect(box, whole_box(tensor.global_shape), &inside) && inside == box))) {
    throw_error("{}: tensor {} is {}, which does not contain {} at {}", directory, name,
                tensor.global_shape.str(), box.shape.str(), box.offset.str());
  }
  if (!converts(stored_dtype(tensor.dtype), out.dtype())) {
    throw_error("{}: tensor {} is {}, which cannot be read as {}", directory, name, dtype_name(tensor.dtype),
                dtype_name(out.dtype()));
  }
  check_coverage(name, tensor, box);
}

void CheckpointReader::read(std::span<const ReadRequest> requests) {
  std::vector<PieceCopy> copies;
  for (const ReadRequest& request : requests) {
    const StoredTensor& tensor = state_->get(request.name);
    state_->check_request(request, tensor);
    Region missing(request.box);
    for (const StoredPiece& piece : tensor.pieces) {
      for (const Box& part : missing.common(piece.box))
        copies.push_back({&tensor, &piece, part, request.box, request.out});
      missing.remove(piece.box);
      if (missing.empty()) break;
    }
  }
  state_->shards.read(copies);
}

Tensor CheckpointReader::read(const std::string& name, DType dtype) {
  const StoredTensor& tensor = state_->get(name);
  const Box box = whole_box(tensor.global_shape);
  state_->check_coverage(name, tensor, box);  // before the memory
  const Tensor out = Tensor::empty(tensor.global_shape, dtype);
  read(name, box, out);
  return out;
}

void CheckpointReader::verify_rest(int rank, int ranks) {
  state_->shards.verify_rest(rank, ranks);
}

std::vector<std::string> CheckpointReader::problems() {
  std::vector<std::string> found;
  for (const auto& [name, tensor] : state_->manifest.tensors) {
    if (std::string gap = state_->gap_in(name, tensor, whole_box(tensor.global_shape)); !gap.empty())
      found.push_back(std::move(gap));
  }
  for (int shard = 0; shard < static_cast<int>(state_->manifest.shards.size()); ++shard) {
    if (std::string problem = state_->shards.problem_of(shard); !problem.empty()) {
      found.push_back(std::move(problem));
      continue;  // HDF5 is given sound files only
    }
    for (std::string& problem : structure_problems(fmt::format("{}/{}", directory(), shard_name(shard)),
                                                   state_->manifest.tensors, shard)) {
      found.push_back(std::move(problem));
    }
  }
  return found;
}

void CheckpointReader::verify() {
  if (std::vector<std::string> found = problems(); !found.empty()) throw DamagedCheckpoint(std::move(found));
}

}  // namespace hysparse
