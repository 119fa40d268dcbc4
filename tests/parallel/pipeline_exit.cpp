// A pipeline in which one stage throws: `pipeline_exit STAGE forward|backward MICRO_BATCH`. The message must
// come and the run end, whatever transfers are under way.
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "parallel/pipeline.h"
#include "parallel/process_group.h"

namespace hysparse {
namespace {

constexpr int micro_batches = 5;
constexpr std::int64_t elements = 1 << 17;  // 512 kB: sends wait for their receives

class BreakingWork final : public PipelineWork {
 public:
  BreakingWork(int rank, int stages, bool breaks, bool in_forward, int at)
      : rank_(rank), stages_(stages), breaks_(breaks), in_forward_(in_forward), at_(at) {}
  std::vector<Tensor> forward(int, int micro_batch, std::vector<Tensor>) override {
    maybe_break(true, micro_batch);
    return made(rank_ + 1 < stages_);
  }
  std::vector<Tensor> backward(int, int micro_batch, std::vector<Tensor>) override {
    maybe_break(false, micro_batch);
    return made(rank_ > 0);
  }

 private:
  static std::vector<Tensor> made(bool any) {
    if (!any) return {};
    return {Tensor::zeros({elements}, DType::f32)};
  }
  void maybe_break(bool is_forward, int micro_batch) const {
    if (breaks_ && is_forward == in_forward_ && micro_batch == at_) throw_failure("stage {} broke", rank_);
  }
  int rank_, stages_;
  bool breaks_, in_forward_;
  int at_;
};

int body(Runtime& runtime, int stage, bool in_forward, int at) {
  const int stages = runtime.world();
  const ProcessGroups groups(runtime, Mesh({.pp = stages}, stages));
  BreakingWork work(runtime.rank(), stages, runtime.rank() == stage, in_forward, at);
  run_pipeline(one_f_one_b(stages, micro_batches)[static_cast<std::size_t>(runtime.rank())], stages, work,
               *groups.pp, {{{elements}, DType::f32}}, Device{});
  return 0;
}

}  // namespace
}  // namespace hysparse

int main(int argc, char** argv) {
  hysparse::Runtime runtime(&argc, &argv);
  if (argc != 4) return 2;
  return runtime.run([&] {
    return hysparse::body(runtime, std::atoi(argv[1]), std::string(argv[2]) == "forward", std::atoi(argv[3]));
  });
}
