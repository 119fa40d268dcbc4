#include "parallel/flat_buffer.h"

#include <algorithm>

#include "core/error.h"

namespace hysparse {
namespace {

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

DType gradient_dtype(DType value_dtype) {
  return value_dtype == DType::f64 ? DType::f64 : DType::f32;
}

FlatBuffer::Layout FlatBuffer::lay_out(MeshKind kind, const std::vector<FlatParameter>& declared,
                                       const Mesh& mesh, int rank, DType value_dtype) {
  const std::int64_t unit =
      Storage::alignment / std::min(dtype_size(value_dtype), dtype_size(gradient_dtype(value_dtype)));
  Layout layout;
  std::int64_t end = 0;
  for (const FlatParameter& p : declared) {
    if (p.placement.mesh != kind || !p.placement.is_held(mesh, rank)) continue;
    Entry entry{p, p.placement.local_box(p.global_shape, mesh, rank), end, 0};
    entry.numel = entry.box.shape.numel();
    end = round_up(end + entry.numel, unit);
    layout.entries.push_back(std::move(entry));
  }
  layout.numel = round_up(end, unit * mesh.size(data_axis(kind)));
  return layout;
}

FlatBuffer::FlatBuffer(MeshKind kind, const std::vector<FlatParameter>& declared, const Mesh& mesh, int rank,
                       DType value_dtype, bool gradients, Device device)
    : kind_(kind), shards_(mesh.size(data_axis(kind))), shard_(mesh.coordinate(data_axis(kind), rank)) {
  Layout layout = lay_out(kind, declared, mesh, rank, value_dtype);
  entries_ = std::move(layout.entries);
  {
    const MemoryScope scope(MemoryPurpose::parameters);
    values_ = Tensor::zeros({layout.numel}, value_dtype, device);
  }
  if (!gradients) return;
  const MemoryScope scope(MemoryPurpose::gradients);
  gradients_ = Tensor::zeros({layout.numel}, gradient_dtype(value_dtype), device);
}

Parameter FlatBuffer::parameter(std::size_t entry) const {
  const Entry& e = entries_.at(entry);
  const auto view = [&](const Tensor& flat) {
    return flat.defined() ? flat.slice(e.begin, e.begin + e.numel).view(e.box.shape) : Tensor();
  };
  return {e.declared.name, view(values_), view(gradients_)};
}

Parameter FlatBuffer::parameter(std::string_view name) const {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.declared.name == name; });
  HYSPARSE_CHECK(found != entries_.end(), "no parameter {} here", name);
  return parameter(static_cast<std::size_t>(found - entries_.begin()));
}

std::vector<FlatBuffer::Piece> FlatBuffer::pieces(std::int64_t begin, std::int64_t end) const {
  HYSPARSE_CHECK(0 <= begin && begin <= end && end <= numel(), "[{}, {}) of {}", begin, end, numel());
  std::vector<Piece> result;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Entry& e = entries_[i];
    const std::int64_t from = std::max(begin, e.begin), to = std::min(end, e.begin + e.numel);
    if (from < to) result.push_back({i, from - e.begin, to - e.begin});
  }
  return result;
}

}  // namespace hysparse
