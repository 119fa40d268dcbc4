#include "launch/cli_checkpoint.h"

namespace hysparse {

ParsedCommand parse_checkpoint(Options& o, const std::vector<std::string>& arguments) {
  CheckpointOptions checkpoint;
  o.choice("ACTION", {"verify", "info"}, checkpoint.action, "what to do (required)");
  o.text("DIR", "DIR", checkpoint.directory, "run directory (all its steps) or step directory", true);
  o.flag("--json", checkpoint.json, "print one JSON object");
  o.footer(
      "\nverify reads every byte of every shard and compares checksums, and looks whether all elements are "
      "there; "
      "exit\nstatus 1 when something is damaged. info says what the checkpoints hold. Neither changes "
      "anything, "
      "and both may\nrun beside a training run.\n");
  if (auto help = o.parse(arguments)) return PrintText{*help};
  if (checkpoint.action.empty()) o.problem("ACTION is missing: verify or info");
  o.finish();
  return checkpoint;
}

}  // namespace hysparse
