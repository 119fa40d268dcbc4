/// Kernels of qk_norm_rope: see attention/rope.h for the formulas.
#pragma once

#include "core/device.h"
#include "core/tensor.h"

namespace hysparse::cpu {

/// [length, rotary_dim]: row p holds cos(angle_i), then sin(angle_i), of position start + p, i < rotary_dim
/// / 2.
Tensor rope_table(const Stream& stream, double theta, std::int64_t rotary_dim, std::int64_t start,
                  std::int64_t length, DType dtype);

struct NormRope {
  std::int64_t head_dim = 1;
  Tensor table;   ///< rope_table; row r of x uses row r % length - documents[r]
  Tensor weight;  ///< [E]; undefined: no norm
  double eps = 0;
  Tensor documents = {};  ///< i32 [rows], 0 <= documents[r] <= r % length; undefined: all 0
};

/// y = rope(norm(x)); x, y [rows, heads * E]. Overwrites y, which may not overlap x.
void norm_rope_forward(const Stream& stream, const NormRope& op, const Tensor& x, const Tensor& y);

/// dx (+)= the gradient from dy; dweight [E], unless undefined, is added to. x may be undefined without a norm.
/// The order of sums does not depend on the number of threads.
void norm_rope_backward(const Stream& stream, const NormRope& op, const Tensor& x, const Tensor& dy,
                        const Tensor& dx, bool add_dx, const Tensor& dweight);

}  // namespace hysparse::cpu
