/// What each rank is at, for the messages of a run that hangs: step and layer, which the program tells, and the
/// collective that it waits in, which the communicators tell. Kept in memory that the ranks of a host share, so
/// that the one whose wait has timed out can say what the others are at. Updates are a few relaxed stores.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hysparse {

/// The step under way, counted from 1.
void at_step(std::int64_t step);

/// The layer under way, counted from 0 through the whole model, forward and backward alike; -1: none.
void at_layer(std::int64_t layer);

namespace detail {  // for parallel/ alone

/// Up to 16 characters, to be copied in two stores; longer names are cut.
struct ShortName {
  ShortName() = default;
  explicit ShortName(std::string_view text);
  std::uint64_t words[2] = {};
};

/// While it lives, this rank's place on the board says that it is in this operation of this group; also when an
/// exception ends it, which means that the run ends there. Not nested.
class InOperation {
 public:
  InOperation(const ShortName& operation, const ShortName& group);
  ~InOperation();
  InOperation(const InOperation&) = delete;
  InOperation& operator=(const InOperation&) = delete;

 private:
  int exceptions_at_start_;
};

/// "step 12, layer 3", as far as they were told; this rank's.
std::string own_whereabouts();

/// One line for each rank of this host: "rank 1: step 12, layer 3, computing for 0.5 s", or "... in all_reduce
/// of group dp for 0.5 s", with "(process 1234 is stopped)" behind it when the system says so. Empty without a
/// board.
std::vector<std::string> whereabouts_of_host();

/// True for the first call on this host: one report is enough.
bool first_to_report();

}  // namespace detail
}  // namespace hysparse
