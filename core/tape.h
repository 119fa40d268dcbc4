/// Reverse-mode differentiation. A tape belongs to one micro-batch on one pipeline stage; there is no global
/// graph, so a pipeline can hold several. An op computes its result, and records a closure that turns the
/// gradient of its outputs into that of its inputs. docs/autograd.md explains it; ops live in core/ops,
/// attention/ and moe/.
///
///   Var op(Tape& tape, const Var& x, Parameter& w) {
///     Tensor y = ...;
///     Var out = tape.output(y, {x, tape.parameter(w)});
///     tape.record("op", {out}, [=] { x.grad().accumulate(...); }, [=] { w gradient });
///     return out;
///   }
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/parameter.h"
#include "core/tensor.h"

namespace hysparse {

/// Where the gradient of one Var gathers. Several consumers add to it; no memory is held before the first.
class Gradient {
 public:
  Gradient(Shape shape, DType dtype, Device device) : shape_(shape), dtype_(dtype), device_(device) {}
  /// A parameter's: adds to its persistent buffer.
  explicit Gradient(Tensor persistent)
      : shape_(persistent.shape()),
        dtype_(persistent.dtype()),
        device_(persistent.device()),
        value_(std::move(persistent)) {}

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }

  /// The buffer to write a contribution to. `add` false: it is fresh and uninitialised, overwrite all of it.
  struct Target {
    Tensor buffer;
    bool add;
  };
  Target target();
  /// Adds a contribution; the first one is kept without a copy, so the caller gives the tensor away.
  void accumulate(const Stream& stream, Tensor contribution);
  void release() { value_ = Tensor(); }

 private:
  Shape shape_;
  DType dtype_;
  Device device_;
  Tensor value_;
};

/// A tensor with the place of its gradient; `grad` is null where none is wanted (constants, evaluation).
struct Var {
  Tensor value;
  std::shared_ptr<Gradient> grad;

  bool requires_grad() const { return grad != nullptr; }
  const Shape& shape() const { return value.shape(); }
  std::int64_t dim(int d) const { return value.dim(d); }
};

/// A tensor kept for backward, through the tape's pack hook (identity unless set).
class Saved {
 public:
  Saved() = default;
  /// The tensor, unpacked.
  Tensor get() const { return unpack_ ? unpack_() : tensor_; }

 private:
  friend class Tape;
  Tensor tensor_;
  std::function<Tensor()> unpack_;
};

struct TapeOptions {
  bool recording = true;  ///< false: evaluation, nothing is kept
  /// Packs a saved tensor, returns what unpacks it (recompute, offload, FP8). Empty: tensors are kept as they
  /// are.
  std::function<std::function<Tensor()>(const Tensor&)> pack;
};

class Tape {
 public:
  explicit Tape(Stream stream, TapeOptions options = {});
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  const Stream& stream() const { return stream_; }
  bool recording() const { return options_.recording; }
  const TapeOptions& options() const { return options_; }

  /// A tensor that gets no gradient.
  Var constant(Tensor value) const { return {std::move(value), nullptr}; }
  /// A tensor whose gradient the caller reads after backward (tests, stage boundaries).
  Var input(Tensor value) const;
  /// A weight; its gradient adds to parameter.grad. No gradient when that is undefined or the tape does not
  /// record.
  Var parameter(const Parameter& parameter) const;
  /// The result of an op: wants a gradient if the tape records and any input does.
  Var output(Tensor value, std::initializer_list<Var> inputs) const;

  Saved save(const Tensor& tensor) const;

  using Closure = std::function<void()>;
  /// Records an op. When backward reaches it and any output has a gradient, `input_grad` runs, then
  /// `weight_grad` (which adds to parameters only, and may run later: backward_inputs / backward_weights). Does
  /// nothing when no output wants a gradient. `name` is for messages.
  void record(const char* name, std::initializer_list<Var> outputs, Closure input_grad,
              Closure weight_grad = {});
  /// The same for any number of outputs.
  void record(const char* name, std::span<const Var> outputs, Closure input_grad, Closure weight_grad = {});

  /// A scalar to differentiate and the gradient of the objective with respect to it.
  struct Root {
    Var scalar;
    double weight = 1.0;
  };
  /// Runs backward from the sum over roots of weight * scalar, frees saved tensors on the way. Once per tape.
  void backward(std::span<const Root> roots);
  /// Backward from a given gradient of `output` (a stage boundary, tests). Once per tape.
  void backward(const Var& output, Tensor gradient);

  /// The two halves of backward, for schedules that delay weight gradients.
  void backward_inputs(std::span<const Root> roots);
  void backward_weights();

  std::size_t size() const { return records_.size(); }

 private:
  struct Record {
    const char* name;
    std::vector<std::shared_ptr<Gradient>> outputs;
    Closure input_grad;
    Closure weight_grad;
  };
  void seed(std::span<const Root> roots);
  void run_inputs(bool with_weights);

  Stream stream_;
  TapeOptions options_;
  std::vector<Record> records_;
  std::vector<Record> delayed_;
};

/// out[i] += in[i]; f32, f64, i64, on a GPU also bf16.
void add_in_place(const Stream& stream, const Tensor& out, const Tensor& in);

}  // namespace hysparse
