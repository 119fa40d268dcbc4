// The runner under mpirun: a chain of small matrices cut into chunks, against the same chain on one tape.
#include <chrono>
#include <cmath>
#include <thread>

#include "core/error.h"
#include "core/ops/add.h"
#include "core/ops/linear.h"
#include "core/ops/swiglu.h"
#include "core/random.h"
#include "parallel/pipeline.h"
#include "tests/core/gradient_check.h"
#include "tests/parallel/mpi_test.h"

namespace hysparse::testing {
namespace {

/// What crosses a boundary: two tensors with gradients, ids without, and one whose gradient is never reached.
struct Crossing {
  Var hidden, side;
  Tensor ids;
  Var aside;
};

struct Sizes {
  std::int64_t rows = 5, width = 6;
};

std::vector<TensorSpec> boundary_of(const Sizes& n) {
  return {{{n.rows, n.width}, DType::f64},
          {{n.rows, 2}, DType::f64},
          {{n.rows}, DType::i32, false},
          {{3}, DType::f32}};
}

/// x with row t times (1 + ids[t] / 8).
Var scale_rows(Tape& tape, const Var& x, const Tensor& ids) {
  const auto scaled = [ids](const Tensor& in) {
    const Tensor out = in.clone();
    const std::int64_t width = in.dim(1);
    for (std::int64_t i = 0; i < in.numel(); ++i) {
      out.data<double>()[i] *= 1.0 + static_cast<double>(ids.data<std::int32_t>()[i / width]) / 8.0;
    }
    return out;
  };
  const Var out = tape.output(scaled(x.value), {x});
  tape.record("scale_rows", {out}, [stream = tape.stream(), scaled, dx = x.grad, dout = out.grad] {
    dx->accumulate(stream, scaled(dout->value()));
  });
  return out;
}

/// Weights of all global chunks, each a pure function of its number; gradients of those that run here.
class Chain {
 public:
  Chain(int chunks, const Sizes& sizes) : sizes_(sizes) {
    for (int g = 0; g < chunks; ++g) {
      const auto weight = [&](const char* name, std::int64_t rows) {
        return random_parameter({rows, sizes.width}, static_cast<std::uint64_t>(g), name,
                                0.3 / std::sqrt(static_cast<double>(sizes.width)));
      };
      weights_.push_back({weight("up", sizes.width), weight("gate", sizes.width), weight("side", 2)});
    }
  }

  int chunks() const { return static_cast<int>(weights_.size()); }

  Crossing start(Tape& tape, int micro_batch) const {
    const auto seed = static_cast<std::uint64_t>(micro_batch);
    Crossing c{tape.constant(random_tensor({sizes_.rows, sizes_.width}, seed, "hidden")),
               tape.constant(random_tensor({sizes_.rows, 2}, seed, "side")),
               Tensor::zeros({sizes_.rows}, DType::i32), tape.constant(Tensor::zeros({3}, DType::f32))};
    for (std::int64_t t = 0; t < sizes_.rows; ++t)
      c.ids.data<std::int32_t>()[t] = static_cast<std::int32_t>((t + micro_batch) % 3);
    return c;
  }

  Crossing chunk(Tape& tape, int g, const Crossing& in) const {
    const auto& w = weights_[static_cast<std::size_t>(g)];
    const Var x = scale_rows(tape, in.hidden, in.ids);
    const Var up = linear(tape, x, w[0]);
    Crossing out{add(tape, swiglu(tape, linear(tape, x, w[1]), up), in.hidden),
                 add(tape, in.side, linear(tape, x, w[2])), in.ids.clone(), in.aside};
    for (std::int64_t t = 0; t < sizes_.rows; ++t) {
      std::int32_t& id = out.ids.data<std::int32_t>()[t];
      id = (id + 1) % 3;
    }
    return out;
  }

  std::vector<std::vector<double>> gradients(int g) const {
    std::vector<std::vector<double>> result;
    for (const Parameter& w : weights_[static_cast<std::size_t>(g)])
      result.push_back(w.grad.to_vector<double>());
    return result;
  }

 private:
  Sizes sizes_;
  std::vector<std::vector<Parameter>> weights_;
};

double loss_of(const std::vector<Tape::Root>& roots) {
  return *roots[0].scalar.value.data<double>() + *roots[1].scalar.value.data<double>();
}

/// The chain's chunks of one stage.
class ChainWork final : public PipelineWork {
 public:
  ChainWork(const Chain& chain, const Stream& stream, int rank, int stages, bool recording = true)
      : chain_(chain), stream_(stream), rank_(rank), stages_(stages), recording_(recording) {}

  std::vector<Tensor> forward(int chunk, int micro_batch, std::vector<Tensor> input) override {
    dawdle();
    const int g = chunk * stages_ + rank_;
    State& s = states_[{chunk, micro_batch}];
    s.tape = std::make_unique<Tape>(stream_, TapeOptions{.recording = recording_});
    if (g == 0) {
      s.in = chain_.start(*s.tape, micro_batch);
    } else {
      s.in = {s.tape->input(input[0]), s.tape->input(input[1]), input[2], s.tape->input(input[3])};
    }
    s.out = chain_.chunk(*s.tape, g, s.in);
    if (g + 1 < chain_.chunks()) return {s.out.hidden.value, s.out.side.value, s.out.ids, s.out.aside.value};
    s.roots = random_objective(*s.tape, {s.out.hidden, s.out.side});
    losses.push_back(loss_of(s.roots));
    EXPECT_TRUE(std::isfinite(losses.back()));
    return {};
  }

  std::vector<Tensor> backward(int chunk, int micro_batch, std::vector<Tensor> gradients) override {
    dawdle();
    const int g = chunk * stages_ + rank_;
    State s = std::move(states_.extract({chunk, micro_batch}).mapped());
    if (g + 1 < chain_.chunks()) {
      EXPECT_EQ(gradients.size(), 3u);
      s.out.hidden.grad->accumulate(stream_, gradients[0]);
      s.out.side.grad->accumulate(stream_, gradients[1]);
      EXPECT_EQ(gradients[2].to_vector<float>(), std::vector<float>(3, 0.0f));
    }
    s.tape->backward(s.roots);
    if (g == 0) return {};
    return {s.in.hidden.grad->value(), s.in.side.grad->value(), Tensor()};
  }

  std::vector<double> losses;
  std::uint64_t dawdle_seed = 0;  ///< not 0: waits at random

 private:
  struct State {
    std::unique_ptr<Tape> tape;
    Crossing in, out;
    std::vector<Tape::Root> roots;
  };
  void dawdle() {
    if (dawdle_seed == 0) return;
    const CounterRandom random(dawdle_seed, fmt::format("rank {}", rank_));
    std::this_thread::sleep_for(std::chrono::microseconds(static_cast<int>(2000 * random.uniform(calls_++))));
  }

  const Chain& chain_;
  Stream stream_;
  int rank_, stages_;
  bool recording_;
  std::uint64_t calls_ = 0;
  std::map<std::pair<int, int>, State> states_;
};

/// Losses and gradients of the whole chain on one tape per micro-batch.
std::vector<double> reference(const Chain& chain, const Stream& stream, int micro_batches) {
  std::vector<double> losses;
  for (int i = 0; i < micro_batches; ++i) {
    Tape tape(stream);
    Crossing c = chain.start(tape, i);
    for (int g = 0; g < chain.chunks(); ++g) c = chain.chunk(tape, g, c);
    const auto roots = random_objective(tape, {c.hidden, c.side});
    losses.push_back(loss_of(roots));
    tape.backward(roots);
  }
  return losses;
}

/// Runs a schedule and expects the bits of one rank's run.
void expect_equal(const Schedule& schedule, int micro_batches, int chunks, const Sizes& sizes = {},
                  std::uint64_t dawdle_seed = 0) {
  const auto stages = static_cast<int>(schedule.size());
  TestStream stream(1);
  const Chain whole(stages * chunks, sizes), mine(stages * chunks, sizes);
  const std::vector<double> losses = reference(whole, stream, micro_batches);

  const ProcessGroups groups(runtime(), Mesh({.pp = stages}, stages));
  const int rank = groups.pp->rank();
  ChainWork work(mine, stream, rank, stages);
  work.dawdle_seed = dawdle_seed;
  run_pipeline(schedule[static_cast<std::size_t>(rank)], stages, work, *groups.pp, boundary_of(sizes),
               Device{});

  EXPECT_EQ(work.losses, rank == stages - 1 ? losses : std::vector<double>{});
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int g = chunk * stages + rank;
    EXPECT_EQ(mine.gradients(g), whole.gradients(g)) << "global chunk " << g;
  }
  const std::int64_t activation = sizes.rows * (sizes.width + 2) * 8 + sizes.rows * 4 + 3 * 4,
                     gradient = sizes.rows * (sizes.width + 2) * 8 + 3 * 4;
  std::int64_t bytes = 0;
  if (stages > 1) {
    const int last = stages * chunks - 1;
    for (int g = rank; g <= last; g += stages) {
      bytes += micro_batches * ((g < last ? activation : 0) + (g > 0 ? gradient : 0));
    }
    EXPECT_EQ(groups.pp->traffic().at("send").bytes, bytes);
  }
}

TEST(Pipeline, GivesOneRanksBitsUnderEverySchedule) {
  const int p = runtime().world();
  for (const int m : {1, 2, 3, 5, 8}) {
    expect_equal(one_f_one_b(p, m), m, 1);
    for (const int v : {1, 2, 3}) expect_equal(interleaved(p, m, v), m, v);
  }
}

TEST(Pipeline, StagesThatDawdleChangeNothing) {
  const int p = runtime().world();
  for (const std::uint64_t seed : {1, 2, 3}) {
    expect_equal(one_f_one_b(p, 6), 6, 1, {}, seed);
    expect_equal(interleaved(p, 5, 2), 5, 2, {}, seed);
  }
}

TEST(Pipeline, LongMessagesAndNone) {
  const int p = runtime().world();
  const Sizes large{.rows = 3000, .width = 24};  // 576 kB, far above what MPI sends without asking
  expect_equal(one_f_one_b(p, 4), 4, 1, large);
  expect_equal(interleaved(p, 4, 2), 4, 2, large);
  expect_equal(interleaved(p, 4, 2), 4, 2, {.rows = 0, .width = 4});
}

TEST(Pipeline, ForwardOnlyGivesTheLosses) {
  const int p = runtime().world();
  TestStream stream(1);
  const ProcessGroups groups(runtime(), Mesh({.pp = p}, p));
  for (const int m : {1, 5}) {
    for (const int v : {1, 3}) {
      const Chain chain(p * v, {});
      ChainWork work(chain, stream, groups.pp->rank(), p, false);
      run_pipeline(forward_only(p, m, v)[static_cast<std::size_t>(groups.pp->rank())], p, work, *groups.pp,
                   boundary_of({}), Device{});
      if (groups.pp->rank() < p - 1) continue;
      EXPECT_EQ(work.losses, reference(Chain(p * v, {}), stream, m));
    }
  }
}

}  // namespace
}  // namespace hysparse::testing
