/// Gradient checks in float64: the gradient of sum(weights . op(inputs)) by the tape against central
/// differences.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/parameter.h"
#include "core/tape.h"
#include "core/thread_pool.h"

namespace hysparse::testing {

/// A CPU stream with its threads, for tests.
class TestStream {
 public:
  explicit TestStream(int threads = 2) : pool_(threads) {}
  operator Stream() { return {Device{}, &pool_, nullptr}; }
  Stream stream() { return {Device{}, &pool_, nullptr}; }

 private:
  ThreadPool pool_;
};

/// Normal random f64 (or f32) tensor, a pure function of seed and name.
Tensor random_tensor(Shape shape, std::uint64_t seed, const std::string& name, double scale = 1.0,
                     DType dtype = DType::f64);
Parameter random_parameter(Shape shape, std::uint64_t seed, const std::string& name, double scale = 1.0,
                           DType dtype = DType::f64);

/// ||a - b|| / max(||b||, tiny), in double.
double relative_error(const Tensor& a, const Tensor& b);

/// The op under check: builds outputs on the tape from Vars of `inputs` (parameters are captured by the
/// caller).
using CheckedOp = std::function<std::vector<Var>(Tape&, const std::vector<Var>&)>;

struct GradientCheck {
  double step = 1e-5;               ///< central-difference step; error O(step^2) + O(eps / step), about 1e-10
  double tolerance = 1e-6;          ///< on the relative error by norm, per input and parameter
  std::int64_t max_elements = 400;  ///< of each tensor; larger ones are sampled evenly
};

/// sum(weights . outputs), with fixed random weights, as roots that one backward starts from. Any float dtype
/// and device.
std::vector<Tape::Root> random_objective(Tape& tape, const std::vector<Var>& outputs);

/// Expects the gradients of every input and parameter to agree; every output is weighted by fixed random
/// numbers.
void check_gradients(const CheckedOp& op, const std::vector<Tensor>& inputs,
                     std::vector<Parameter*> parameters = {}, const GradientCheck& options = {});

}  // namespace hysparse::testing
