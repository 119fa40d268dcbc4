#include "core/tensor.h"

#include <cstring>

#include "core/backend.h"
#include "core/cuda/context.h"
#include "core/cuda/elementwise.h"
#include "core/cuda/memory.h"

namespace hysparse {
namespace {

template <class From, class To>
void convert(const Tensor& from, const Tensor& to) {
  const From* s = from.data<From>();
  To* d = to.data<To>();
  for (std::int64_t i = 0; i < from.numel(); ++i) {
    if constexpr (std::is_same_v<To, BFloat16>) {
      d[i] = BFloat16(static_cast<float>(s[i]));
    } else {
      d[i] = static_cast<To>(s[i]);
    }
  }
}

template <class From>
void convert_from(const Tensor& from, const Tensor& to) {
  switch (to.dtype()) {
    case DType::f64:
      return convert<From, double>(from, to);
    case DType::f32:
      return convert<From, float>(from, to);
    case DType::bf16:
      return convert<From, BFloat16>(from, to);
    default:
      HYSPARSE_CHECK(false, "to {}", dtype_name(to.dtype()));
  }
}

}  // namespace

Tensor Tensor::empty(Shape shape, DType dtype, Device device) {
  Tensor t;
  t.shape_ = shape;
  t.numel_ = shape.numel();
  t.dtype_ = dtype;
  t.device_ = device;
  t.storage_ = Storage::allocate(t.bytes(), device);
  return t;
}

Tensor Tensor::zeros(Shape shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.zero_();
  return t;
}

Tensor Tensor::empty_page_locked(Shape shape, DType dtype) {
  Tensor t;
  t.shape_ = shape;
  t.numel_ = shape.numel();
  t.dtype_ = dtype;
  t.storage_ = Storage::allocate_page_locked(t.bytes());
  return t;
}

void* Tensor::raw() const {
  HYSPARSE_CHECK(defined());
  return static_cast<char*>(storage_->data()) + offset_bytes_;
}

Tensor Tensor::view(Shape shape) const {
  HYSPARSE_CHECK(defined() && shape.numel() == numel_, "view {} as {}", shape_.str(), shape.str());
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t end) const {
  HYSPARSE_CHECK(defined() && rank() > 0 && 0 <= begin && begin <= end && end <= dim(0), "rows [{}, {}) of {}",
                 begin, end, shape_.str());
  Tensor t = *this;
  const std::int64_t row = dim(0) == 0 ? 0 : numel_ / dim(0);
  t.offset_bytes_ += begin * row * dtype_size(dtype_);
  t.shape_.set(0, end - begin);
  t.numel_ = t.shape_.numel();
  return t;
}

Tensor Tensor::part(std::int64_t offset, Shape shape, DType dtype) const {
  const std::int64_t size = dtype_size(dtype);
  HYSPARSE_CHECK(defined() && offset >= 0 && offset % size == 0 && shape.numel() * size <= bytes() - offset,
                 "{} {} at byte {} of {}", shape.str(), dtype_name(dtype), offset, bytes());
  Tensor t = *this;
  t.offset_bytes_ += offset;
  t.shape_ = shape;
  t.numel_ = shape.numel();
  t.dtype_ = dtype;
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device_);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to_device(Device device) const {
  if (device == device_) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device_);
  if constexpr (cuda_build) {
    if (!device_.is_cpu()) {
      cuda::convert(cuda::current_stream(), *this, t);
      return t;
    }
  }
  switch (dtype_) {
    case DType::f64:
      convert_from<double>(*this, t);
      break;
    case DType::f32:
      convert_from<float>(*this, t);
      break;
    case DType::bf16:
      convert_from<BFloat16>(*this, t);
      break;
    default:
      HYSPARSE_CHECK(false, "from {}", dtype_name(dtype_));
  }
  return t;
}

void Tensor::zero_() const {
  if constexpr (cuda_build) {
    if (!device_.is_cpu()) return cuda::zero(raw(), bytes());
  }
  std::memset(raw(), 0, static_cast<std::size_t>(bytes()));
}

void Tensor::copy_from(const Tensor& source) const {
  HYSPARSE_CHECK(source.shape() == shape_ && source.dtype() == dtype_, "{} {} from {} {}", shape_.str(),
                 dtype_name(dtype_), source.shape().str(), dtype_name(source.dtype()));
  if constexpr (cuda_build) {
    if (!device_.is_cpu() || !source.device().is_cpu()) {
      return cuda::copy(raw(), device_, source.raw(), source.device(), bytes());
    }
  }
  std::memcpy(raw(), source.raw(), static_cast<std::size_t>(bytes()));
}

}  // namespace hysparse
