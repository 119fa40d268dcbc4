/// Ranks that must go on together or fail together. Collective: every rank of the group calls, on its main
/// thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace hysparse {

/// Every rank's text, in order of rank.
std::vector<std::string> gather_texts(Communicator& group, const std::string& text);

/// The message of a rank that failed, "" of one that did not: throws AgreedFailure with the first failing
/// rank's on all.
void agree_on_failures(const std::vector<std::string>& messages);

/// Runs `body`; if it threw on any rank, throws AgreedFailure on all of them. Also a barrier.
void agree(Communicator& group, const std::function<void()>& body);

/// Throws AgreedFailure, naming the rank, unless every rank sees in `directory` what rank 0 puts there: ranks
/// on several hosts need a file system that they share. `patience_s`: network file systems may show a new file
/// late. Collective.
void require_shared_directory(Communicator& group, const std::string& directory, double patience_s = 60);

}  // namespace hysparse
