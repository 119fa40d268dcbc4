/// A piece of work in a process of its own, for what a hostile file may do to a library: whether it crashes,
/// hangs or takes memory without bound, only the child goes down.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace hysparse {

struct ChildLimits {
  double seconds = 300;                             ///< of the processor
  std::int64_t more_bytes = std::int64_t{1} << 30;  ///< address space beyond what this process has now
};

/// What `body` returns in a forked child. `body` may read this process's memory; what it writes stays in the
/// child. It must not use MPI or a GPU, nor other threads.
/// Throws Failure when the child ended otherwise ("ended by signal 11 (Segmentation fault)"), or with the text
/// of what `body` threw.
std::string in_child_process(const std::function<std::string()>& body, const ChildLimits& limits = {});

}  // namespace hysparse
