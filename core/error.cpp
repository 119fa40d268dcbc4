#include "core/error.h"

#include <atomic>

namespace hysparse {
namespace {

std::atomic<int> message_rank{0};

}  // namespace

Error::Error(std::string problem) : Error(std::vector<std::string>{std::move(problem)}) {}

Error::Error(std::vector<std::string> problems)
    : std::runtime_error(fmt::format("{}", fmt::join(problems, "\n"))), problems_(std::move(problems)) {}

void set_rank_in_messages(int rank) {
  message_rank = rank;
}
int rank_in_messages() {
  return message_rank;
}

namespace detail {

void check_failed(const char* expression, const char* file, int line, const std::string& values) {
  throw CheckFailure(fmt::format("rank {}: {}:{}: CHECK({}) failed{}{}", rank_in_messages(), file, line,
                                 expression, values.empty() ? "" : ": ", values));
}

}  // namespace detail
}  // namespace hysparse
