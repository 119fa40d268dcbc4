// `hysparse prepare`.
#include "launch/commands.h"

namespace hysparse {

int run_prepare(Runtime& runtime, const PrepareConfig& options) {
  PrepareReport report;
  runtime.agree([&] {
    if (runtime.rank() == 0) report = prepare(options, true);
  });
  if (runtime.rank() == 0) fmt::print("{}\n", report.str());
  return 0;
}

}  // namespace hysparse
