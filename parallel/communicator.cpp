#include "parallel/communicator.h"

#include <numeric>

#include "core/error.h"

namespace hysparse {
namespace {

std::int64_t row_elements(const Tensor& t) {
  std::int64_t row = 1;
  for (int d = 1; d < t.rank(); ++d) row *= t.dim(d);
  return row;
}

}  // namespace

void Communicator::check_reduce_scatter(const Tensor& in, const Tensor& out) const {
  HYSPARSE_CHECK(in.dtype() == out.dtype() && in.numel() == size() * out.numel(), "{}: {} {} to {} {} over {}",
                 name(), dtype_name(in.dtype()), in.shape().str(), dtype_name(out.dtype()), out.shape().str(),
                 size());
}

void Communicator::check_all_gather(const Tensor& in, const Tensor& out) const {
  HYSPARSE_CHECK(in.dtype() == out.dtype() && out.numel() == size() * in.numel(), "{}: {} {} to {} {} over {}",
                 name(), dtype_name(in.dtype()), in.shape().str(), dtype_name(out.dtype()), out.shape().str(),
                 size());
}

void Communicator::check_all_to_all(const Tensor& in, std::span<const std::int64_t> send_rows,
                                    const Tensor& out, std::span<const std::int64_t> receive_rows) const {
  const auto total = [](std::span<const std::int64_t> rows) {
    return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
  };
  const auto ranks = static_cast<std::size_t>(size());
  HYSPARSE_CHECK(send_rows.size() == ranks && receive_rows.size() == ranks, "{}: {} and {} counts", name(),
                 send_rows.size(), receive_rows.size());
  HYSPARSE_CHECK(
      in.dtype() == out.dtype() && in.rank() >= 1 && out.rank() >= 1 && row_elements(in) == row_elements(out),
      "{}: {} {} to {} {}", name(), dtype_name(in.dtype()), in.shape().str(), dtype_name(out.dtype()),
      out.shape().str());
  HYSPARSE_CHECK(total(send_rows) == in.dim(0) && total(receive_rows) == out.dim(0),
                 "{}: {} rows of {}, {} of {}", name(), total(send_rows), in.shape().str(), total(receive_rows),
                 out.shape().str());
}

}  // namespace hysparse
