/// What the user named: messages that begin with its key, and places to write to that are tried before any
/// work.
#pragma once

#include <string>

#include "core/error.h"

namespace hysparse {

/// What `body` returns. An Error of it gets the key in front: "data.train: x.h5: not an HDF5 file".
template <class Body>
auto with_key(const char* key, Body&& body) {
  try {
    return body();
  } catch (const Error& e) {
    std::vector<std::string> problems = e.problems();
    for (std::string& problem : problems) problem = fmt::format("{}: {}", key, problem);
    throw Error(std::move(problems));
  }
}

/// Why no file can be made in the directory, "" when one can: makes one and removes it again.
std::string why_not_writable(const std::string& directory);

/// Throws Error, naming key and path, unless a file can be written under this name.
void require_writable_file(const char* key, const std::string& path);

/// Makes the directory and those above it. Throws Error, naming key and path, when it cannot be made or no file
/// can be made in it.
void make_writable_directory(const char* key, const std::string& path);

}  // namespace hysparse
