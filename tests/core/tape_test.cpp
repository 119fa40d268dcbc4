// The tape itself; ops are tested in ops_test.cpp.
#include "core/tape.h"

#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/swiglu.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

TEST(Tape, GradientsOfSeveralConsumersAdd) {
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.input(Tensor::from<double>({1, 2}, {2}));
  const Var y = add(tape, add(tape, x, x), x);
  tape.backward(y, Tensor::from<double>({10, 1}, {2}));
  EXPECT_EQ(x.grad->value().to_vector<double>(), (std::vector<double>{30, 3}));
}

TEST(Tape, RootsAreWeightedAndSummed) {
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.input(Tensor::from<double>({3}, {1}));
  const Var y = add(tape, x, x);
  const std::vector<Tape::Root> roots{{x, 0.5}, {y, 2.0}};
  tape.backward(roots);
  EXPECT_EQ(*x.grad->value().data<double>(), 4.5);
}

TEST(Tape, UnreachedOpsAreSkipped) {
  TestStream stream;
  Tape tape(stream);
  const Var x = tape.input(Tensor::from<double>({1}, {1}));
  bool ran = false;
  const Var aside = tape.output(Tensor::from<double>({1}, {1}), {x});
  tape.record("aside", {aside}, [&] { ran = true; });
  tape.backward(add(tape, x, x), Tensor::from<double>({1}, {1}));
  EXPECT_FALSE(ran);
  EXPECT_EQ(tape.size(), 0u);
}

TEST(Tape, WeightGradientsWaitForTheSecondHalf) {
  TestStream stream;
  Tape tape(stream);
  Parameter w = random_parameter({2, 3}, 1, "w");
  const Var x = tape.input(random_tensor({4, 3}, 1, "x"));
  const auto roots = random_objective(tape, {linear(tape, x, w)});
  const Tensor zero = w.grad.clone();
  tape.backward_inputs(roots);
  EXPECT_TRUE(x.grad->defined());
  EXPECT_EQ(w.grad.to_vector<double>(), zero.to_vector<double>());
  tape.backward_weights();
  EXPECT_NE(w.grad.to_vector<double>(), zero.to_vector<double>());
}

TEST(Tape, SavedTensorsPassThePackHook) {
  TestStream stream;
  int packed = 0, unpacked = 0;
  TapeOptions options;
  options.pack = [&](const Tensor& t) {
    ++packed;
    return [&unpacked, copy = t.clone()] {
      ++unpacked;
      return copy;
    };
  };
  Tape tape(stream, options);
  const Var gate = tape.input(random_tensor({3}, 1, "gate")), up = tape.input(random_tensor({3}, 1, "up"));
  const Var y = swiglu(tape, gate, up);
  EXPECT_EQ(packed, 2);
  tape.backward(y, random_tensor({3}, 1, "dy"));
  EXPECT_EQ(unpacked, 2);
  EXPECT_TRUE(gate.grad->defined() && up.grad->defined());
}

TEST(Tape, BackwardFreesWhatWasSaved) {
  const std::int64_t before = memory_use().live_bytes;
  TestStream stream;
  Tape tape(stream);
  {
    Var y = tape.input(random_tensor({1000}, 1, "x"));
    for (int i = 0; i < 5; ++i) y = swiglu(tape, y, y);
    EXPECT_GE(memory_use().live_bytes - before, 5 * 8000);
    tape.backward(y, random_tensor({1000}, 1, "dy"));
  }
  EXPECT_EQ(memory_use().live_bytes, before);
}

}  // namespace
}  // namespace hysparse::testing
