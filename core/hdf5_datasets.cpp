#include <algorithm>

#include <hdf5.h>

#include "core/hdf5.h"
#include "core/hdf5_internal.h"

namespace hysparse {

using hdf5_internal::element_type;
using hdf5_internal::quiet;
using hdf5_internal::reason;

namespace {

Hdf5Handle make_space(std::span<const std::int64_t> dims) {
  std::vector<hsize_t> sizes(dims.begin(), dims.end());
  if (sizes.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  return {H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(), nullptr), H5Sclose};
}

/// The dataspace of a dataset with the box selected; nothing to select in a scalar.
Hdf5Handle select_box(const Hdf5Handle& dataset, std::span<const std::int64_t> offset,
                      std::span<const std::int64_t> count) {
  Hdf5Handle space(H5Dget_space(dataset.id()), H5Sclose);
  if (!space.valid() || count.empty()) return space;
  const std::vector<hsize_t> start(offset.begin(), offset.end()), sizes(count.begin(), count.end());
  if (H5Sselect_hyperslab(space.id(), H5S_SELECT_SET, start.data(), nullptr, sizes.data(), nullptr) < 0)
    return {};
  return space;
}

std::string dims_text(std::span<const std::int64_t> dims) {
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

}  // namespace

Hdf5Handle Hdf5File::make_dataset(const std::string& name, Hdf5Type type, std::span<const std::int64_t> dims) {
  quiet();
  const Hdf5Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  const Hdf5Handle layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const Hdf5Handle space = make_space(dims);
  Hdf5Handle dataset;
  if (links.valid() && layout.valid() && space.valid() &&
      H5Pset_create_intermediate_group(links.id(), 1) >= 0 && H5Pset_obj_track_times(layout.id(), false) >= 0 &&
      H5Pset_layout(layout.id(), H5D_CONTIGUOUS) >= 0 &&
      H5Pset_alloc_time(layout.id(), H5D_ALLOC_TIME_EARLY) >= 0 &&
      H5Pset_fill_time(layout.id(), H5D_FILL_TIME_NEVER) >= 0) {
    dataset = {H5Dcreate2(file_.id(), name.c_str(), element_type(type), space.id(), links.id(), layout.id(),
                          H5P_DEFAULT),
               H5Dclose};
  }
  if (!dataset.valid()) {
    throw_failure("{}: cannot create dataset {} {}: {}", path_, name, dims_text(dims), reason());
  }
  return dataset;
}

void Hdf5File::create_dataset(const std::string& name, Hdf5Type type, std::span<const std::int64_t> dims) {
  make_dataset(name, type, dims);
}

std::int64_t Hdf5File::create_dataset(const Hdf5NewDataset& dataset) {
  const Hdf5Handle made = make_dataset(dataset.name, dataset.type, dataset.dims);
  const std::string owner = fmt::format("dataset {}: ", dataset.name);
  for (const Hdf5NewDataset::Numbers& n : dataset.numbers) write_numbers(made, owner, n.name, n.values);
  for (const Hdf5NewDataset::Text& t : dataset.texts) write_text(made, owner, t.name, t.value);
  if (std::find(dataset.dims.begin(), dataset.dims.end(), 0) != dataset.dims.end()) return 0;
  const haddr_t offset = H5Dget_offset(made.id());
  if (offset == HADDR_UNDEF) throw_failure("{}: {}has no place in the file: {}", path_, owner, reason());
  return static_cast<std::int64_t>(offset);
}

void Hdf5File::write(const std::string& name, Hdf5Type type, std::span<const std::int64_t> dims,
                     const void* data) {
  create_dataset(name, type, dims);
  const std::vector<std::int64_t> origin(dims.size(), 0);
  write_slab(name, type, origin, dims, data);
}

void Hdf5File::write(const std::string& name, const Tensor& tensor) {
  HYSPARSE_CHECK(tensor.device().is_cpu(), "{} on {}", name, tensor.device().str());
  write(name, hdf5_type_of(tensor.dtype()), {tensor.shape().begin(), tensor.shape().end()}, tensor.raw());
}

void Hdf5File::write_slab(const std::string& name, Hdf5Type type, std::span<const std::int64_t> offset,
                          std::span<const std::int64_t> count, const void* data) {
  quiet();
  if (std::find(count.begin(), count.end(), 0) != count.end()) return;
  const Hdf5Handle dataset(H5Dopen2(file_.id(), name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) throw_failure("{}: dataset {}: {}", path_, name, reason());
  const Hdf5Handle file_space = select_box(dataset, offset, count);
  const Hdf5Handle memory_space = make_space(count);
  if (!file_space.valid() || !memory_space.valid() ||
      H5Dwrite(dataset.id(), element_type(type), memory_space.id(), file_space.id(), H5P_DEFAULT, data) < 0) {
    throw_failure("{}: cannot write {} at {} of dataset {}: {}", path_, dims_text(count), dims_text(offset),
                  name, reason());
  }
}

Hdf5Handle Hdf5File::open_dataset(const std::string& name) const {
  if (!has_dataset(name)) throw_error("{}: has no dataset {}", path_, name);
  Hdf5Handle dataset(H5Dopen2(file_.id(), name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.valid()) throw_error("{}: dataset {} is damaged: {}", path_, name, reason());
  return dataset;
}

bool Hdf5File::has_dataset(const std::string& name) const {
  quiet();
  if (name.empty()) return false;
  for (std::size_t end = name.find('/', 1);;
       end = name.find('/', end + 1)) {  // each group on the way, then the dataset
    if (H5Lexists(file_.id(), name.substr(0, end).c_str(), H5P_DEFAULT) <= 0) return false;
    if (end == std::string::npos) break;
  }
  const Hdf5Handle object(H5Oopen(file_.id(), name.c_str(), H5P_DEFAULT), H5Oclose);
  if (!object.valid()) throw_error("{}: dataset {} is damaged: {}", path_, name, reason());
  return H5Iget_type(object.id()) == H5I_DATASET;
}

std::vector<std::string> Hdf5File::datasets() const {
  quiet();
  std::vector<std::string> names;
  // In native order: to sort by name itself, HDF5 1.10 builds a table, whose entries it frees unset when the
  // file is damaged.
  const herr_t status = H5Ovisit2(
      file_.id(), H5_INDEX_NAME, H5_ITER_NATIVE,
      [](hid_t, const char* name, const H5O_info_t* info, void* out) -> herr_t {
        if (info->type == H5O_TYPE_DATASET) static_cast<std::vector<std::string>*>(out)->emplace_back(name);
        return 0;
      },
      &names, H5O_INFO_BASIC);
  if (status < 0) throw_error("{}: damaged HDF5 file: {}", path_, reason());
  std::sort(names.begin(), names.end());
  return names;
}

Hdf5DatasetInfo Hdf5File::info(const std::string& name) const {
  const Hdf5Handle dataset = open_dataset(name);
  const Hdf5Handle space(H5Dget_space(dataset.id()), H5Sclose), type(H5Dget_type(dataset.id()), H5Tclose),
      layout(H5Dget_create_plist(dataset.id()), H5Pclose);
  const int rank = space.valid() ? H5Sget_simple_extent_ndims(space.id()) : -1;
  if (rank < 0 || !type.valid() || !layout.valid()) {
    throw_error("{}: dataset {} is damaged: {}", path_, name, reason());
  }
  if (H5Sget_simple_extent_type(space.id()) == H5S_NULL)
    throw_error("{}: dataset {} has no shape", path_, name);
  if (H5Pget_layout(layout.id()) != H5D_CONTIGUOUS || H5Pget_nfilters(layout.id()) != 0 ||
      H5Pget_external_count(layout.id()) != 0) {
    throw_error("{}: dataset {} is chunked, filtered or external; it must be contiguous", path_, name);
  }

  Hdf5DatasetInfo info{};
  bool known = false;
  for (const Hdf5Type t : {Hdf5Type::f64, Hdf5Type::f32, Hdf5Type::i64, Hdf5Type::i32, Hdf5Type::u8,
                           Hdf5Type::u16, Hdf5Type::u32, Hdf5Type::u64}) {
    if (!known && H5Tequal(type.id(), element_type(t)) > 0) {
      info.type = t;
      known = true;
    }
  }
  if (!known) {
    throw_error(
        "{}: dataset {} has an element type that is not supported (f64, f32, i64, i32, u8, u16, u32, u64; "
        "little-endian)",
        path_, name);
  }

  std::vector<hsize_t> dims(static_cast<std::size_t>(rank));
  if (rank > 0 && H5Sget_simple_extent_dims(space.id(), dims.data(), nullptr) < 0) {
    throw_error("{}: dataset {} is damaged: {}", path_, name, reason());
  }
  // A hostile shape may overflow: count in 128 bits, without zeros, against the file's size, which any real
  // dataset fits in. A file being written has no size yet.
  __extension__ using Wide = unsigned __int128;
  const bool no_elements = std::find(dims.begin(), dims.end(), 0) != dims.end();
  const auto limit = static_cast<Wide>(size_bytes_ > 0 && !no_elements ? size_bytes_ : INT64_MAX);
  Wide bytes = static_cast<Wide>(hdf5_type_size(info.type));
  for (const hsize_t d : dims) {
    if ((bytes *= d > 0 ? d : 1) > limit) {
      throw_error("{}: dataset {} [{}] is larger than the file", path_, name, fmt::join(dims, ", "));
    }
    info.dims.push_back(static_cast<std::int64_t>(d));
  }
  if (no_elements) return info;
  const haddr_t offset = H5Dget_offset(dataset.id());
  if (offset == HADDR_UNDEF) throw_error("{}: dataset {} was never written", path_, name);
  if (static_cast<Wide>(offset) + bytes > limit) {
    throw_error("{}: dataset {} reaches past the end of the file: the file is truncated or damaged", path_,
                name);
  }
  info.offset_bytes = static_cast<std::int64_t>(offset);
  return info;
}

void Hdf5File::check_box(const std::string& name, Hdf5Type type, std::span<const std::int64_t> offset,
                         std::span<const std::int64_t> count) const {
  HYSPARSE_CHECK(offset.size() == count.size(), "offset {} count {}", dims_text(offset), dims_text(count));
  const Hdf5DatasetInfo about = info(name);
  if (about.type != type) {
    throw_error("{}: dataset {} holds {}, expected {}", path_, name, hdf5_type_name(about.type),
                hdf5_type_name(type));
  }
  bool inside = about.dims.size() == count.size();
  for (std::size_t d = 0; inside && d < count.size(); ++d) {
    inside =
        offset[d] >= 0 && count[d] >= 0 && offset[d] <= about.dims[d] && count[d] <= about.dims[d] - offset[d];
  }
  if (!inside) {
    throw_error("{}: dataset {} {} does not hold {} at {}", path_, name, dims_text(about.dims),
                dims_text(count), dims_text(offset));
  }
}

void Hdf5File::read_slab(const std::string& name, Hdf5Type type, std::span<const std::int64_t> offset,
                         std::span<const std::int64_t> count, void* data) const {
  check_box(name, type, offset, count);
  if (std::find(count.begin(), count.end(), 0) != count.end()) return;
  const Hdf5Handle dataset = open_dataset(name);
  const Hdf5Handle file_space = select_box(dataset, offset, count);
  const Hdf5Handle memory_space = make_space(count);
  if (!file_space.valid() || !memory_space.valid() ||
      H5Dread(dataset.id(), element_type(type), memory_space.id(), file_space.id(), H5P_DEFAULT, data) < 0) {
    throw_error("{}: cannot read dataset {}: {}", path_, name, reason());
  }
}

Tensor Hdf5File::read_slab(const std::string& name, DType dtype, std::span<const std::int64_t> offset,
                           const Shape& shape) const {
  const std::vector<std::int64_t> count(shape.begin(), shape.end());
  check_box(name, hdf5_type_of(dtype), offset, count);  // before the allocation
  Tensor tensor = Tensor::empty(shape, dtype);
  read_slab(name, hdf5_type_of(dtype), offset, count, tensor.raw());
  return tensor;
}

Tensor Hdf5File::read(const std::string& name, DType dtype) const {
  const Hdf5DatasetInfo about = info(name);
  if (about.dims.size() > static_cast<std::size_t>(Shape::max_rank)) {
    throw_error("{}: dataset {} has {} dims, at most {} are supported", path_, name, about.dims.size(),
                Shape::max_rank);
  }
  Shape shape;
  for (const std::int64_t d : about.dims) shape.push_back(d);
  const std::vector<std::int64_t> origin(about.dims.size(), 0);
  return read_slab(name, dtype, origin, shape);
}

}  // namespace hysparse
