// `hysparse data inspect`.
#include "launch/commands.h"
#include "launch/data_inspection.h"

namespace hysparse {

int run_data_inspect(Runtime& runtime, const DataInspectOptions& options) {
  DataInspection found;
  runtime.agree([&] {
    if (runtime.rank() == 0) found = inspect_data(options.config);
  });
  if (runtime.rank() != 0) return 0;
  fmt::print("{}", options.json ? inspection_json(found) + "\n" : inspection_text(found));
  return 0;
}

}  // namespace hysparse
