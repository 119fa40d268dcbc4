#include "attention/documents.h"

#include "core/error.h"

namespace hysparse {

void check_documents(const Tensor& documents, std::int64_t sequences, std::int64_t seq_len) {
  HYSPARSE_CHECK(documents.dtype() == DType::i32 && documents.shape() == Shape{sequences * seq_len},
                 "document starts {} for {} x {} tokens", documents.shape().str(), sequences, seq_len);
  const std::int32_t* starts = documents.data<std::int32_t>();
  for (std::int64_t row = 0; row < documents.numel(); ++row) {
    const std::int64_t t = row % seq_len, before = t > 0 ? starts[row - 1] : 0;
    HYSPARSE_CHECK(starts[row] == before || starts[row] == t,
                   "token {} of sequence {}: document start {} after {}", t, row / seq_len, starts[row],
                   before);
  }
}

}  // namespace hysparse
