/// Tests of GPU kernels: the same numbers go to a kernel of cpu:: in f32 and to that of cuda:: in f32 or bf16.
#pragma once

#include <string>

#include "core/cuda/context.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {

/// Relative errors by norm that a kernel may have. f32: sums of up to some ten thousand terms. bf16: each
/// element rounds by up to 2^-9 of itself on output (2^-8 between neighbours), and what a kernel rounds on the
/// way adds as much again.
inline constexpr double f32_bound = 1e-5;
inline constexpr double bf16_bound = 0x1p-8;
inline double bound_of(DType dtype) {
  return dtype == DType::bf16 ? bf16_bound : f32_bound;
}

/// The stream of GPU 0; fails the test program where there is none.
const Stream& gpu();

/// On the GPU in `dtype`. Elements that `dtype` does not have are rounded.
Tensor on_gpu(const Tensor& cpu, DType dtype);
/// i32, i64, f64: as they are.
Tensor on_gpu(const Tensor& cpu);
/// Normal random f32 numbers that `dtype` has all of, on the CPU: what both sides of a test start from.
Tensor random_for(DType dtype, Shape shape, std::uint64_t seed, const std::string& name, double scale = 1.0);
/// A tensor on the GPU whose elements are all NaN (integers: -1): outputs must be written all over.
Tensor poisoned(Shape shape, DType dtype);

/// ||gpu - cpu|| / ||cpu||, in double, of tensors of any float dtypes; NaN and infinities make it infinite.
double gpu_error(const Tensor& gpu, const Tensor& cpu);

}  // namespace hysparse::testing
