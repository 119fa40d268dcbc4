#include "core/ops/vocabulary.h"

namespace hysparse {

void check_tokens(const Tensor& ids, std::string_view table, std::int64_t size) {
  const std::int32_t* id = ids.data<std::int32_t>();
  for (std::int64_t t = 0; t < ids.numel(); ++t) {
    if (id[t] < 0 || id[t] >= size) {
      throw_error("token {} has id {}; the vocabulary of {} has ids 0 to {}", t, id[t], table, size - 1);
    }
  }
}

std::int64_t check_targets(const Tensor& targets, std::string_view table, std::int64_t size) {
  const std::int32_t* id = targets.data<std::int32_t>();
  std::int64_t count = 0;
  for (std::int64_t t = 0; t < targets.numel(); ++t) {
    if (id[t] >= size) {
      throw_error("target {} has id {}; the vocabulary of {} has ids 0 to {}", t, id[t], table, size - 1);
    }
    count += id[t] >= 0;
  }
  return count;
}

}  // namespace hysparse
