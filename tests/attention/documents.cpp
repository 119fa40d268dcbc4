#include "tests/attention/documents.h"

#include "core/random.h"

namespace hysparse::testing {

Tensor random_documents(std::int64_t sequences, std::int64_t seq_len, std::int64_t mean_length) {
  if (mean_length == 0) return {};
  const CounterRandom random(17, "documents");
  const Tensor documents = Tensor::empty({sequences * seq_len}, DType::i32);
  std::int64_t start = 0;
  for (std::int64_t row = 0; row < documents.numel(); ++row) {
    const std::int64_t t = row % seq_len;
    if (t == 0 || random.below(static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(mean_length)) == 0)
      start = t;
    documents.data<std::int32_t>()[row] = static_cast<std::int32_t>(start);
  }
  return documents;
}

Tensor documents_of_lengths(std::int64_t sequences, const std::vector<std::int64_t>& lengths) {
  std::vector<std::int32_t> starts;
  for (std::int64_t s = 0; s < sequences; ++s) {
    std::int32_t start = 0;
    for (const std::int64_t length : lengths) {
      starts.insert(starts.end(), static_cast<std::size_t>(length), start);
      start += static_cast<std::int32_t>(length);
    }
  }
  return Tensor::from<std::int32_t>(starts, {static_cast<std::int64_t>(starts.size())});
}

}  // namespace hysparse::testing
