/// A dense, contiguous, row-major array: a handle on shared storage. Copying a Tensor copies the handle,
/// clone() the elements. Views (view, slice) share storage; writing through one is seen by all.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/shape.h"
#include "core/storage.h"

namespace hysparse {

class Tensor {
 public:
  Tensor() = default;

  /// Uninitialised elements.
  static Tensor empty(Shape shape, DType dtype, Device device = {});
  static Tensor zeros(Shape shape, DType dtype, Device device = {});
  /// On the host, uninitialised; page-locked in builds with CUDA, so that a GPU copies to it at full speed.
  /// Slow to make: for memory that stays.
  static Tensor empty_page_locked(Shape shape, DType dtype);
  /// A CPU tensor with the given elements, in row-major order; their number must be shape.numel().
  template <class T>
  static Tensor from(const std::vector<T>& values, Shape shape);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  std::int64_t dim(int d) const { return shape_[d]; }
  std::int64_t numel() const { return numel_; }
  std::int64_t bytes() const { return numel_ * dtype_size(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }

  /// First element; T must be the dtype's type.
  template <class T>
  T* data() const {
    HYSPARSE_CHECK(dtype_ == dtype_of<T>, "tensor is {}, asked for {}", dtype_name(dtype_),
                   dtype_name(dtype_of<T>));
    return static_cast<T*>(raw());
  }
  void* raw() const;

  /// Same elements under another shape of as many.
  Tensor view(Shape shape) const;
  /// Rows [begin, end) of dim 0.
  Tensor slice(std::int64_t begin, std::int64_t end) const;
  /// `shape` elements of `dtype` in this tensor's memory, from byte `offset` on.
  Tensor part(std::int64_t offset, Shape shape, DType dtype) const;
  Tensor clone() const;
  /// The same on another device; the same handle when it lies there already. From a GPU: waits for what made
  /// it. To one: in the order of the compute stream.
  Tensor to_device(Device device) const;
  /// Elements converted between f64, f32 and bf16 (round to nearest even); the same handle when the dtype is
  /// already that.
  Tensor to(DType dtype) const;
  void zero_() const;
  /// Copies elements from a tensor of the same shape and dtype, on any device.
  void copy_from(const Tensor& source) const;
  /// The elements, on the host.
  template <class T>
  std::vector<T> to_vector() const {
    const Tensor here = to_device(Device{});
    return {here.data<T>(), here.data<T>() + numel_};
  }

 private:
  std::shared_ptr<Storage> storage_;
  std::int64_t offset_bytes_ = 0;
  Shape shape_;
  std::int64_t numel_ = 0;
  DType dtype_ = DType::f32;
  Device device_;
};

template <class T>
Tensor Tensor::from(const std::vector<T>& values, Shape shape) {
  HYSPARSE_CHECK(static_cast<std::int64_t>(values.size()) == shape.numel(), "{} values for shape {}",
                 values.size(), shape.str());
  Tensor t = empty(shape, dtype_of<T>);
  std::copy(values.begin(), values.end(), t.data<T>());
  return t;
}

}  // namespace hysparse
