#include "optim/sharded_optimizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/backend.h"
#include "core/tape.h"
#include "optim/cuda/sum_of_squares.h"

namespace hysparse {

namespace {

/// A tied parameter's stage that is not this rank's; -1 when one stage holds it.
int other_stage(const Placement& placement, const ProcessGroups& groups) {
  if (!placement.is_tied()) return -1;
  return groups.pp->rank() == placement.stage ? placement.second_stage : placement.stage;
}

}  // namespace

double clip_scale(double norm, double max_norm) {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

ShardedOptimizer::ShardedOptimizer(const Stream& stream, const AdamWConfig& config, const ProcessGroups& groups,
                                   std::vector<const FlatBuffer*> buffers)
    : stream_(stream), config_(config), groups_(&groups) {
  const MemoryScope scope(MemoryPurpose::optimizer);
  for (const FlatBuffer* buffer : buffers) {
    Part part{
        .buffer = buffer, .group = &groups.axis(data_axis(buffer->kind())), .pieces = buffer->shard_pieces()};
    HYSPARSE_CHECK(part.group->size() == buffer->shards() && part.group->rank() == buffer->shard(),
                   "shard {} of {}, rank {} of {}", buffer->shard(), buffer->shards(), part.group->rank(),
                   part.group->size());
    const DType dtype = buffer->gradients().dtype();
    for (const FlatBuffer::Entry& entry : buffer->entries()) {
      const int other = other_stage(entry.declared.placement, groups);
      HYSPARSE_CHECK(&entry == buffer->entries().data() || other == part.other_stage,
                     "{} beside parameters of other stages", entry.declared.name);
      part.other_stage = other;
    }
    part.master = buffer->value_shard().to(dtype);
    part.exp_avg = Tensor::zeros(part.master.shape(), dtype, part.master.device());
    part.exp_avg_sq = Tensor::zeros(part.master.shape(), dtype, part.master.device());
    for (const FlatBuffer::Piece& piece : part.pieces) {
      const FlatBuffer::Entry& entry = buffer->entries()[piece.entry];
      const std::int64_t first = entry.begin - buffer->shard_begin();
      part.updates.push_back({first + piece.begin, first + piece.end, entry.declared.weight_decay});
      if (entry.declared.placement.is_owner(groups.mesh, groups.rank)) {
        part.counted.push_back({first + piece.begin, first + piece.end});
      }
    }
    parts_.push_back(std::move(part));
  }
}

void ShardedOptimizer::start_reduce(std::size_t buffer) {
  Part& part = parts_.at(buffer);
  if (part.reducing || part.other_stage >= 0) return;
  part.reducing = part.group->start_reduce_scatter(part.buffer->gradients(), part.buffer->gradient_shard());
}

void ShardedOptimizer::progress() {
  for (const Part& part : parts_) {
    if (part.reducing) part.reducing->test();
    if (part.gathering) part.gathering->test();
  }
}

void ShardedOptimizer::reduce_gradients() {
  for (Part& part : parts_) {
    if (part.reducing) {
      std::exchange(part.reducing, nullptr)->wait();
    } else {  // needs less scratch than one that is started
      part.group->reduce_scatter(part.buffer->gradients(), part.buffer->gradient_shard());
    }
  }
  for (const Part& part : parts_) {
    if (part.other_stage >= 0) add_other_stage(part);
  }
  for (const Axis axis : {Axis::tp, Axis::ep, Axis::etp}) reduce_partial(axis);
}

void ShardedOptimizer::add_other_stage(const Part& part) {
  // Both stages' buffers hold the same parameters, so that ranks of one data coordinate have the same shard.
  Communicator& pp = *groups_->pp;
  const Tensor own = part.buffer->gradient_shard();
  const Tensor other = Tensor::empty(own.shape(), own.dtype(), own.device());
  const auto received = pp.receive(other, part.other_stage, 0), sent = pp.send(own, part.other_stage, 0);
  received->wait();
  sent->wait();
  add_in_place(stream_, own, other);  // a sum of two is the same on both stages
}

void ShardedOptimizer::reduce_partial(Axis axis) {
  // What this rank's shards hold of the gradients that are partial on this axis, end to end; those of a sharded
  // parameter with copies in one slot per distinct part, of which each rank fills its own, so that one sum over
  // the axis adds what belongs together. The ranks of the axis have the same shards of buffers of one layout.
  struct Slot {
    Tensor grad;
    std::int64_t own;  // where this rank's part goes
  };
  std::vector<Slot> slots;
  std::int64_t total = 0;
  const Mesh& mesh = groups_->mesh;
  for (const Part& part : parts_) {
    for (const FlatBuffer::Piece& piece : part.pieces) {
      const FlatBuffer::Entry& entry = part.buffer->entries()[piece.entry];
      const std::vector<Axis> axes = entry.declared.placement.partial_axes(mesh);
      if (std::find(axes.begin(), axes.end(), axis) == axes.end()) continue;
      const std::int64_t numel = piece.end - piece.begin;
      for (const auto& [model_axis, placement] : entry.declared.placement.model_axes()) {
        if (model_axis != axis) continue;
        const int own = part_of(placement, mesh.size(axis), mesh.coordinate(axis, groups_->rank));
        slots.push_back({part.buffer->gradients().slice(entry.begin + piece.begin, entry.begin + piece.end),
                         total + own * numel});
        total += (placement.sharded ? placement.parts : 1) * numel;
      }
    }
  }
  if (total == 0) return;
  const Tensor sum = Tensor::zeros({total}, slots.front().grad.dtype(), stream_.device);
  for (const Slot& s : slots) sum.slice(s.own, s.own + s.grad.numel()).copy_from(s.grad);
  groups_->axis(axis).all_reduce(sum);
  for (const Slot& s : slots) s.grad.copy_from(sum.slice(s.own, s.own + s.grad.numel()));
}

double ShardedOptimizer::global_norm() {
  const auto count = static_cast<std::int64_t>(parts_.size());
  const Tensor squares = Tensor::empty({count}, DType::f64, stream_.device);
  for (std::int64_t i = 0; i < count; ++i) {
    const Part& part = parts_[static_cast<std::size_t>(i)];
    HYSPARSE_LAUNCH(stream_, sum_of_squares, part.buffer->gradient_shard(), part.counted,
                    squares.slice(i, i + 1));
  }
  const Tensor sum = Tensor::zeros({1}, DType::f64);
  for (const double s : squares.to_vector<double>()) *sum.data<double>() += s;
  groups_->world->all_reduce(sum);
  return std::sqrt(sum.data<double>()[0]);
}

void ShardedOptimizer::apply(double lr, double gradient_scale) {
  wait_gathered();
  ++steps_;
  for (const Part& part : parts_) {
    adamw_update(stream_, config_, steps_, lr, gradient_scale, part.updates, part.master,
                 part.buffer->gradient_shard(), part.exp_avg, part.exp_avg_sq,
                 part.separate_master() ? part.buffer->value_shard() : Tensor());
  }
}

void ShardedOptimizer::start_gather() {
  for (Part& part : parts_) {
    HYSPARSE_CHECK(!part.gathering, "buffers are being gathered");
    part.gathering = part.group->start_all_gather(part.buffer->value_shard(), part.buffer->values());
  }
}

void ShardedOptimizer::wait_gathered(std::size_t buffer) {
  Part& part = parts_.at(buffer);
  if (part.gathering) std::exchange(part.gathering, nullptr)->wait();
}

void ShardedOptimizer::wait_gathered() {
  for (std::size_t i = 0; i < parts_.size(); ++i) wait_gathered(i);
}

void ShardedOptimizer::gather_parameters() {
  for (const Part& part : parts_) {
    const Tensor values = part.buffer->value_shard();
    if (part.separate_master()) values.copy_from(part.master.to(values.dtype()));
  }
  start_gather();
  wait_gathered();
}

void ShardedOptimizer::take_values() {
  for (const Part& part : parts_) {
    if (part.separate_master()) part.master.copy_from(part.buffer->value_shard().to(part.master.dtype()));
  }
}

double ShardedOptimizer::step(double lr, double max_norm) {
  reduce_gradients();
  const double norm = global_norm();
  apply(lr, clip_scale(norm, max_norm));
  start_gather();
  wait_gathered();
  return norm;
}

std::vector<StatePiece> ShardedOptimizer::state() const {
  std::vector<StatePiece> result;
  for (const Part& part : parts_) {
    for (const FlatBuffer::Piece& piece : part.pieces) {
      const FlatBuffer::Entry& entry = part.buffer->entries()[piece.entry];
      std::int64_t begin = entry.begin + piece.begin - part.buffer->shard_begin();
      for (const Box& box : boxes_of_range(entry.box.shape, piece.begin, piece.end)) {
        const std::int64_t end = begin + box.shape.numel();
        Box global = box;
        for (int d = 0; d < box.shape.rank(); ++d) global.offset.set(d, entry.box.offset[d] + box.offset[d]);
        result.push_back({entry.declared.name, entry.declared.global_shape, box, global,
                          entry.declared.placement.is_owner(groups_->mesh, groups_->rank),
                          part.master.slice(begin, end), part.exp_avg.slice(begin, end),
                          part.exp_avg_sq.slice(begin, end)});
        begin = end;
      }
    }
  }
  return result;
}

}  // namespace hysparse
