#include "attention/gate.h"

#include <vector>

#include "attention/cpu/gate.h"
#include "attention/cuda/gate.h"
#include "attention/target.h"
#include "core/backend.h"

namespace hysparse {
namespace {

/// What backward needs of one branch; x and logits only where it is gated.
struct SavedBranch {
  bool gated;
  Saved x, logits;
  std::shared_ptr<Gradient> dx, dlogits;
};

}  // namespace

Var gated_sum(Tape& tape, std::span<const GatedBranch> branches, std::int64_t num_heads) {
  HYSPARSE_CHECK(branches.size() == 1 || branches.size() == 2, "{} branches", branches.size());
  const Tensor& first = branches[0].x.value;
  std::vector<cpu::GateInput> inputs;
  for (const GatedBranch& b : branches) {
    const Tensor& logits = b.gate_logits.value;
    HYSPARSE_CHECK(
        b.x.shape() == first.shape() && first.rank() == 2 && num_heads >= 1 && first.dim(1) % num_heads == 0,
        "branches {} and {}, {} heads", first.shape().str(), b.x.shape().str(), num_heads);
    HYSPARSE_CHECK(!logits.defined() || logits.shape() == Shape({first.dim(0), num_heads}) ||
                       logits.shape() == first.shape(),
                   "gate logits {} for {}", logits.shape().str(), first.shape().str());
    inputs.push_back({b.x.value, logits});
  }
  if (branches.size() == 1 && !branches[0].gate_logits.value.defined()) return branches[0].x;
  const Stream& stream = tape.stream();
  const Tensor y = Tensor::empty(first.shape(), first.dtype(), first.device());
  HYSPARSE_LAUNCH(stream, gated_sum_forward, inputs, num_heads, y);
  const GatedBranch second = branches.size() == 2 ? branches[1] : GatedBranch{};
  const Var out = tape.output(y, {branches[0].x, branches[0].gate_logits, second.x, second.gate_logits});
  if (!out.requires_grad()) return out;
  std::vector<SavedBranch> saved;
  for (const GatedBranch& b : branches) {
    const bool gated = b.gate_logits.value.defined();
    saved.push_back({.gated = gated,
                     .x = gated ? tape.save(b.x.value) : Saved(),
                     .logits = gated ? tape.save(b.gate_logits.value) : Saved(),
                     .dx = b.x.grad,
                     .dlogits = b.gate_logits.grad});
  }
  tape.record("gated_sum", {out}, [stream, saved = std::move(saved), num_heads, dout = out.grad] {
    for (const SavedBranch& b : saved) {
      const Tensor& dy = dout->value();
      const cpu::GateInput input{b.x.get(), b.logits.get()};
      const Gradient::Target dx = target_or_scratch(b.dx, dy);
      const Gradient::Target dlogits =
          b.gated ? target_or_scratch(b.dlogits, input.logits) : Gradient::Target{};
      HYSPARSE_LAUNCH(stream, gated_sum_backward, input, num_heads, dy, dx.buffer, dx.add, dlogits.buffer,
                      dlogits.add);
    }
  });
  return out;
}

}  // namespace hysparse
