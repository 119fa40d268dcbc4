// Recomputed segments against the same segments called directly: bitwise.
#include "core/recompute.h"

#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/rms_norm.h"
#include "core/ops/swiglu.h"
#include "tests/core/gradient_check.h"

namespace hysparse::testing {
namespace {

using Bits = std::vector<std::vector<double>>;
using Runner = std::function<std::vector<Var>(Tape&, std::vector<Var>, Segment)>;

std::vector<Var> directly(Tape& tape, std::vector<Var> inputs, const Segment& body) {
  return body(tape, inputs);
}

/// Three weights, inputs of 5 rows, and a network around a segment.
class Network {
 public:
  Parameter w = random_parameter({6, 6}, 1, "w"), v = random_parameter({6, 6}, 1, "v"),
            norm = random_parameter({6}, 1, "norm");

  /// {a, b, -, c} -> {a changed, b itself, -, the gated sum, a constant}.
  Segment segment() {
    return [this](Tape& tape, std::span<const Var> in) {
      ++calls;
      EXPECT_FALSE(in[2].value.defined());
      const Var up = linear(tape, in[0], w);
      const ResidualNorm r = add_rms_norm(tape, in[1], up, norm, 1e-6);
      const Var out = swiglu(tape, linear(tape, r.norm, v), linear(tape, in[3], w));
      return std::vector<Var>{r.sum, in[1], Var{}, out, tape.constant(in[0].value)};
    };
  }

  /// Values of the results, then gradients of the inputs and parameters. The inputs and the segment's outputs
  /// have other consumers before and after it.
  Bits bits(const Runner& run, bool use_all_outputs = true) {
    for (Parameter* p : parameters()) p->grad.zero_();
    Tape tape(stream);
    std::vector<Var> x;
    for (const char* name : {"a", "b", "c"}) x.push_back(tape.input(random_tensor({5, 6}, 1, name)));
    const Var before = swiglu(tape, x[0], x[1]);
    std::vector<Var> out = run(tape, {before, x[1], Var{}, x[2]}, segment());
    std::vector<Var> results{linear(tape, out[3], w), swiglu(tape, out[1], x[2]), before};
    if (use_all_outputs) results.push_back(add(tape, out[0], add(tape, out[0], out[4])));
    const auto roots = random_objective(tape, results);
    Bits bits;
    for (const Var& r : results) bits.push_back(r.value.to_vector<double>());
    out.clear();
    results.clear();
    tape.backward(roots);
    for (const Var& in : x) bits.push_back(in.grad->value().to_vector<double>());
    for (Parameter* p : parameters()) bits.push_back(p->grad.to_vector<double>());
    return bits;
  }

  std::vector<Parameter*> parameters() { return {&w, &v, &norm}; }

  TestStream stream;
  int calls = 0;
};

TEST(Recompute, GivesTheBitsOfTheDirectCall) {
  for (const bool all : {true, false}) {
    Network n;
    const Bits expected = n.bits(directly, all);
    EXPECT_EQ(n.calls, 1);
    EXPECT_EQ(n.bits(recompute, all), expected);
    EXPECT_EQ(n.calls, 3);
  }
}

TEST(Recompute, SegmentsNest) {
  Network n;
  const Bits expected = n.bits(directly);
  const Runner nested = [](Tape& tape, std::vector<Var> inputs, Segment body) {
    return recompute(tape, std::move(inputs), [body](Tape& t, std::span<const Var> in) {
      return recompute(t, {in.begin(), in.end()}, body);
    });
  };
  n.calls = 0;
  EXPECT_EQ(n.bits(nested), expected);
  EXPECT_EQ(n.calls, 3);
}

TEST(Recompute, ChainsAndMicroBatchesAccumulateAlike) {
  const auto bits = [](bool again) {
    TestStream stream;
    Parameter w = random_parameter({4, 4}, 1, "w");
    Bits result;
    for (int batch = 0; batch < 3; ++batch) {
      Tape tape(stream);
      const Var x = tape.input(random_tensor({7, 4}, static_cast<std::uint64_t>(batch), "x"));
      Var y = x;
      for (int layer = 0; layer < 4; ++layer) {
        const Segment body = [&w](Tape& t, std::span<const Var> in) {
          const Var h = linear(t, in[0], w);
          return std::vector<Var>{add(t, in[0], swiglu(t, h, h))};
        };
        y = again ? recompute(tape, {y}, body)[0] : body(tape, std::vector<Var>{y})[0];
      }
      tape.backward(random_objective(tape, {y}));
      result.push_back(x.grad->value().to_vector<double>());
    }
    result.push_back(w.grad.to_vector<double>());
    return result;
  };
  EXPECT_EQ(bits(true), bits(false));
}

TEST(Recompute, GradientsAgreeWithDifferences) {
  Parameter w = random_parameter({5, 5}, 1, "w");
  const CheckedOp op = [&](Tape& tape, const std::vector<Var>& x) {
    return recompute(tape, x, [&w](Tape& t, std::span<const Var> in) {
      return std::vector<Var>{swiglu(t, linear(t, in[0], w), in[1]), in[0]};
    });
  };
  for (const std::int64_t rows : {0, 1, 4}) {
    check_gradients(op, {random_tensor({rows, 5}, 1, "x"), random_tensor({rows, 5}, 1, "gate")}, {&w});
  }
}

TEST(Recompute, KeepsTheInputsAlone) {
  TestStream stream;
  constexpr std::int64_t bytes = 1000 * 8;
  const Segment body = [](Tape& t, std::span<const Var> in) {
    Var y = in[0];
    for (int i = 0; i < 6; ++i) y = swiglu(t, y, y);
    return std::vector<Var>{y};
  };
  const std::int64_t before = memory_use().live_bytes;
  {
    Tape tape(stream);
    Var y = tape.input(random_tensor({1000}, 1, "x"));
    for (int segment = 0; segment < 3; ++segment) y = recompute(tape, {y}, body)[0];
    EXPECT_EQ(memory_use().live_bytes - before, 4 * bytes);  // an input for each segment, and the output
    reset_memory_peak();
    tape.backward(y, random_tensor({1000}, 1, "dy"));
    // One segment's tensors live at a time: 6 and its input's, the other segments' inputs, gradients.
    EXPECT_LE(memory_use().peak_bytes - before, (4 + 6 + 4) * bytes);
    EXPECT_EQ(tape.size(), 0u);
  }
  EXPECT_EQ(memory_use().live_bytes, before);
}

TEST(Recompute, PassesInputsThroughThePackHook) {
  TestStream stream;
  int packed = 0, unpacked = 0;
  TapeOptions options;
  options.pack = [&](const Tensor& t) {
    ++packed;
    return [&unpacked, t] {
      ++unpacked;
      return t;
    };
  };
  Tape tape(stream, options);
  const Var x = tape.input(random_tensor({3}, 1, "x"));
  const Var y = recompute(tape, {x, tape.constant(x.value)}, [](Tape& t, std::span<const Var> in) {
    return std::vector<Var>{swiglu(t, in[0], in[1])};
  })[0];
  EXPECT_EQ(packed, 2);
  tape.backward(y, random_tensor({3}, 1, "dy"));
  EXPECT_EQ(packed, 4);  // the second run saves, too
  EXPECT_EQ(unpacked, 4);
}

TEST(Recompute, RunsOnceWhereNothingIsDifferentiated) {
  TestStream stream;
  int calls = 0;
  const Segment body = [&calls](Tape& t, std::span<const Var> in) {
    ++calls;
    return std::vector<Var>{add(t, in[0], in[0])};
  };
  Tape evaluation(stream, {.recording = false});
  EXPECT_FALSE(
      recompute(evaluation, {evaluation.constant(random_tensor({3}, 1, "x"))}, body)[0].requires_grad());
  Tape tape(stream);
  EXPECT_FALSE(recompute(tape, {tape.constant(random_tensor({3}, 1, "x"))}, body)[0].requires_grad());
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_EQ(calls, 2);
}

TEST(Recompute, IsSkippedWhereBackwardDoesNotReach) {
  TestStream stream;
  int calls = 0;
  Tape tape(stream);
  const Var x = tape.input(random_tensor({3}, 1, "x"));
  recompute(tape, {x}, [&calls](Tape& t, std::span<const Var> in) {
    ++calls;
    return std::vector<Var>{add(t, in[0], in[0])};
  });
  tape.backward(add(tape, x, x), random_tensor({3}, 1, "dy"));
  EXPECT_EQ(calls, 1);
}

TEST(Recompute, DelayedHalvesGiveTheSameGradients) {
  Network n;
  const auto gradients = [&](bool halves) {
    for (Parameter* p : n.parameters()) p->grad.zero_();
    Tape tape(n.stream);
    const Var x = tape.input(random_tensor({5, 6}, 1, "x"));
    const auto roots = random_objective(tape, {recompute(tape, {x, x, Var{}, x}, n.segment())[3]});
    if (halves) {
      tape.backward_inputs(roots);
      tape.backward_weights();
    } else {
      tape.backward(roots);
    }
    Bits bits{x.grad->value().to_vector<double>()};
    for (Parameter* p : n.parameters()) bits.push_back(p->grad.to_vector<double>());
    return bits;
  };
  EXPECT_EQ(gradients(true), gradients(false));
}

}  // namespace
}  // namespace hysparse::testing
