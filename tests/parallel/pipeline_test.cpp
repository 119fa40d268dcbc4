// The runner against a communicator that writes down what is asked of it: when receives are posted, when sends
// are waited for, what goes where. Values are tested under mpirun (pipeline_mpi_test.cpp).
#include "parallel/pipeline.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "core/error.h"

namespace hysparse {
namespace {

/// What happened, in order.
struct Diary {
  std::vector<std::string> lines;
  int under_way = 0, given_up = 0, waits_while_unwinding = 0;
  bool sends_complete = false;  ///< what test() of a send says

  std::size_t at(const std::string& line) const {
    return static_cast<std::size_t>(std::find(lines.begin(), lines.end(), line) - lines.begin());
  }
};

class DiaryPending final : public Pending {
 public:
  DiaryPending(Diary& diary, std::string name, bool is_send)
      : diary_(diary), name_(std::move(name)), is_send_(is_send) {
    ++diary_.under_way;
  }
  ~DiaryPending() override {
    if (!waited_) ++diary_.given_up;
  }
  void wait() override {
    EXPECT_FALSE(waited_) << name_;
    waited_ = true;
    --diary_.under_way;
    if (std::uncaught_exceptions() > 0) ++diary_.waits_while_unwinding;
    diary_.lines.push_back("wait " + name_);
  }
  bool test() override { return is_send_ && diary_.sends_complete; }

 private:
  Diary& diary_;
  std::string name_;
  bool is_send_, waited_ = false;
};

/// Rank `rank` of `size`; messages come from nowhere.
class DiaryCommunicator final : public Communicator {
 public:
  DiaryCommunicator(Diary& diary, int rank, int size) : diary_(diary), rank_(rank), size_(size) {}
  const std::string& name() const override { return name_; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::unique_ptr<Pending> send(const Tensor&, int to, int tag) override {
    return begin(fmt::format("send to {} tag {}", to, tag), true);
  }
  std::unique_ptr<Pending> receive(const Tensor& tensor, int from, int tag) override {
    tensor.zero_();
    return begin(fmt::format("receive from {} tag {}", from, tag), false);
  }
  void all_reduce(const Tensor&) override { unexpected(); }
  void reduce_scatter(const Tensor&, const Tensor&) override { unexpected(); }
  void all_gather(const Tensor&, const Tensor&) override { unexpected(); }
  void all_to_all(const Tensor&, std::span<const std::int64_t>, const Tensor&,
                  std::span<const std::int64_t>) override {
    unexpected();
  }
  void broadcast(const Tensor&, int) override { unexpected(); }
  void barrier() override { unexpected(); }
  std::unique_ptr<Pending> start_reduce_scatter(const Tensor&, const Tensor&) override { return nullptr; }
  std::unique_ptr<Pending> start_all_gather(const Tensor&, const Tensor&) override { return nullptr; }

 private:
  std::unique_ptr<Pending> begin(const std::string& what, bool is_send) {
    const std::string name = fmt::format("{} #{}", what, count_[what]++);
    diary_.lines.push_back(name);
    return std::make_unique<DiaryPending>(diary_, name, is_send);
  }
  void unexpected() { ADD_FAILURE() << "a collective"; }

  Diary& diary_;
  int rank_, size_;
  std::string name_ = "pp";
  std::map<std::string, int> count_;
};

const std::vector<TensorSpec> boundary{{{2, 3}, DType::f32}, {{2}, DType::i32, false}};

/// Passes tensors of the right shapes; throws when told to.
class DiaryWork final : public PipelineWork {
 public:
  DiaryWork(Diary& diary, int rank, int stages, int chunks)
      : diary_(diary), rank_(rank), stages_(stages), last_(stages * chunks - 1) {}
  std::vector<Tensor> forward(int chunk, int micro_batch, std::vector<Tensor> input) override {
    const int global = chunk * stages_ + rank_;
    EXPECT_EQ(input.size(), global == 0 ? 0u : 2u);
    note("forward", chunk, micro_batch);
    if (global == last_) return {};
    return {Tensor::zeros({2, 3}, DType::f32), Tensor::zeros({2}, global == wrong ? DType::f32 : DType::i32)};
  }
  std::vector<Tensor> backward(int chunk, int micro_batch, std::vector<Tensor> gradients) override {
    const int global = chunk * stages_ + rank_;
    EXPECT_EQ(gradients.size(), global == last_ ? 0u : 1u);
    note("backward", chunk, micro_batch);
    if (global == 0) return {};
    return {Tensor()};  // never reached: counts as zero
  }
  std::string throw_at;
  int wrong = -1;

 private:
  void note(const char* what, int chunk, int micro_batch) {
    diary_.lines.push_back(fmt::format("{} {} {}", what, chunk, micro_batch));
    if (diary_.lines.back() == throw_at) throw_error("broken at {}", throw_at);
  }
  Diary& diary_;
  int rank_, stages_, last_;
};

struct Outcome {
  Diary diary;
  std::string error;
};

Outcome run(const Schedule& schedule, int rank, int chunks, bool sends_complete = false,
            const std::string& throw_at = "") {
  Outcome outcome;
  outcome.diary.sends_complete = sends_complete;
  const auto stages = static_cast<int>(schedule.size());
  DiaryCommunicator pp(outcome.diary, rank, stages);
  DiaryWork work(outcome.diary, rank, stages, chunks);
  work.throw_at = throw_at;
  try {
    run_pipeline(schedule[static_cast<std::size_t>(rank)], stages, work, pp, boundary, Device{});
  } catch (const Error& e) {
    outcome.error = e.what();
  }
  return outcome;
}

TEST(Pipeline, PostsTheNextReceiveBeforeItComputes) {
  const Diary d = run(one_f_one_b(2, 3), 1, 1).diary;
  // Two tensors a message; gradients carry one. Boundary 0: activations have tags 0 and 1, gradients tag 2.
  const auto posted = [&](int micro_batch) {
    return d.at(fmt::format("receive from 0 tag 0 #{}", micro_batch));
  };
  EXPECT_LT(posted(1), d.at("wait receive from 0 tag 0 #0"));
  EXPECT_LT(posted(1), d.at("forward 0 0"));
  EXPECT_LT(posted(2), d.at("backward 0 0"));
  EXPECT_GT(posted(2), d.at("forward 0 0"));  // one ahead, not all at once
  EXPECT_LT(d.at("wait receive from 0 tag 1 #0"), d.at("forward 0 0"));
  EXPECT_EQ(d.at("wait receive from 0 tag 0 #1") + 2, d.at("forward 0 1"));  // when it is needed
}

TEST(Pipeline, SendsAreWaitedForAtTheEndUnlessTheyAreDone) {
  const auto is_wait_for_send = [](const std::string& line) { return line.starts_with("wait send"); };
  Diary d = run(one_f_one_b(3, 4), 1, 1, false).diary;
  const auto last_work = static_cast<std::ptrdiff_t>(d.at("backward 0 3"));
  EXPECT_EQ(std::count_if(d.lines.begin(), d.lines.begin() + last_work, is_wait_for_send), 0);
  EXPECT_EQ(std::count_if(d.lines.begin(), d.lines.end(), is_wait_for_send), 4 * 2 + 4);
  EXPECT_EQ(d.under_way, 0);
  EXPECT_EQ(d.given_up, 0);
  d = run(one_f_one_b(3, 4), 1, 1, true).diary;
  EXPECT_EQ(d.at("wait send to 2 tag 4 #0"), d.at("send to 2 tag 4 #0") + 2);  // after its other tensor
  EXPECT_EQ(d.under_way, 0);
}

TEST(Pipeline, TagsTellBoundariesAndDirectionsApart) {
  const Diary d = run(interleaved(2, 2, 2), 0, 2).diary;
  // Global chunks 0 and 2 are here; boundaries 0 (to 1), 1 (from 1), 2 (to 1).
  for (const char* line : {"send to 1 tag 0 #0", "receive from 1 tag 4 #0", "send to 1 tag 8 #1",
                           "receive from 1 tag 10 #1", "send to 1 tag 6 #0", "receive from 1 tag 2 #1"}) {
    EXPECT_LT(d.at(line), d.lines.size()) << line;
  }
}

TEST(Pipeline, AnExceptionPassesWithoutWaiting) {
  for (const char* where : {"forward 0 0", "forward 0 2", "backward 0 0", "backward 0 2"}) {
    for (int rank = 0; rank < 3; ++rank) {
      const Outcome o = run(one_f_one_b(3, 3), rank, 1, false, where);
      EXPECT_EQ(o.error, fmt::format("broken at {}", where));
      EXPECT_EQ(o.diary.waits_while_unwinding, 0);
      EXPECT_EQ(o.diary.given_up, o.diary.under_way);
    }
  }
}

TEST(Pipeline, OneStageHandsTensorsOn) {
  const Diary d = run(interleaved(1, 3, 3), 0, 3).diary;
  EXPECT_EQ(d.lines.size(), 3u * 3 * 2);
  EXPECT_EQ(run(forward_only(1, 2, 2), 0, 2).diary.lines.size(), 4u);
}

TEST(Pipeline, RefusesOtherTensorsThanTheBoundarySays) {
  Diary diary;
  DiaryCommunicator pp(diary, 0, 2);
  DiaryWork work(diary, 0, 2, 1);
  work.wrong = 0;
  EXPECT_THROW(run_pipeline(one_f_one_b(2, 1)[0], 2, work, pp, boundary, Device{}), CheckFailure);
  EXPECT_THROW(run_pipeline(one_f_one_b(3, 1)[0], 3, work, pp, boundary, Device{}), CheckFailure);
}

}  // namespace
}  // namespace hysparse
