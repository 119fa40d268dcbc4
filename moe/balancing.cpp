#include "moe/balancing.h"

#include <algorithm>
#include <numeric>

#include "moe/cpu/router.h"

namespace hysparse {
namespace {

std::int64_t total(const Tensor& counts) {
  const std::int64_t* c = counts.data<std::int64_t>();
  return std::accumulate(c, c + counts.numel(), std::int64_t{0});
}

}  // namespace

void update_correction_bias(const Tensor& bias, const Tensor& counts, double rate) {
  HYSPARSE_CHECK(bias.numel() == counts.numel(), "bias {}, counts {}", bias.shape().str(),
                 counts.shape().str());
  const std::int64_t experts = counts.numel(), assignments = total(counts);
  const Tensor here = bias.to_device(Device{});
  dispatch_float(here.dtype(), [&]<class T>() {
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t load =
          counts.data<std::int64_t>()[e] * experts;  // against assignments: exact, no mean
      if (load == assignments) continue;
      here.data<T>()[e] += static_cast<T>(load < assignments ? rate : -rate);
    }
  });
  if (!bias.device().is_cpu()) bias.copy_from(here);
}

Tensor balanced_choices(std::int64_t begin, std::int64_t end, std::int64_t top_k, std::int64_t num_experts) {
  Tensor ids = Tensor::empty({end - begin, top_k}, DType::i32);
  cpu::balanced_choices(Stream{}, begin, num_experts, ids);
  return ids;
}

LoadMetrics load_metrics(const Tensor& counts, std::int64_t dropped) {
  const std::int64_t assignments = total(counts);
  if (assignments == 0) return {};
  const std::int64_t* c = counts.data<std::int64_t>();
  const auto most = static_cast<double>(*std::max_element(c, c + counts.numel()));
  const auto all = static_cast<double>(assignments);
  return {most * static_cast<double>(counts.numel()) / all, static_cast<double>(dropped) / all};
}

}  // namespace hysparse
