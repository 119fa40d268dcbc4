/// An exchange as the Pending that callers hold. Private to parallel/ (names MPI types).
#pragma once

#include <functional>
#include <utility>

#include "core/error.h"
#include "parallel/communicator.h"
#include "parallel/mpi_exchange.h"

namespace hysparse::detail {

class MpiPending final : public Pending {
 public:
  /// `finish` runs once, when the exchange is complete.
  explicit MpiPending(Exchange exchange, std::function<void()> finish = {})
      : exchange_(std::move(exchange)), finish_(std::move(finish)) {}
  void wait() override {
    HYSPARSE_CHECK(!waited_);
    waited_ = true;
    exchange_.wait();
    finish();
  }
  bool test() override {
    if (!exchange_.test()) return false;
    finish();
    return true;
  }

 private:
  void finish() {
    if (finish_) std::exchange(finish_, {})();
  }

  Exchange exchange_;
  std::function<void()> finish_;
  bool waited_ = false;
};

}  // namespace hysparse::detail
