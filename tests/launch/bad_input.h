/// Tables of users' mistakes and what the program must say: exit status 2, nothing on stdout, exactly the
/// expected lines on stderr, every file as it was, no process left behind.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/launch/program.h"

namespace hysparse::testing {

/// "@" in arguments, errors and environment stands for the work directory.
struct BadInput {
  std::vector<std::string> arguments;
  std::vector<std::string> errors;  ///< lines of stderr after "hysparse: error: "; "..." stands for any text
  std::function<void(const std::string&)> make;  ///< makes files in the directory it is given, "@/case"
  int ranks = 0;                                 ///< 0: without mpirun
  std::vector<std::string> environment;
};

/// A directory with config.yaml (write_small_config), train.h5 and valid.h5; with_run() adds a run of two steps
/// with a checkpoint each, run/, and its export, export/.
class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite();
  static void TearDownTestSuite();
  static void with_run();
  static const WorkDirectory& directory();

  static void expect_refused(const std::vector<BadInput>& cases);
};

/// train @/config.yaml run.dir=@/case/run and these overrides.
std::vector<std::string> train(const std::vector<std::string>& overrides);

void write_file(const std::string& path, const std::string& bytes);
std::string read_file(const std::string& path);
/// For BadInput::make: writes this file there.
std::function<void(const std::string&)> with_file(const std::string& name, const std::string& bytes);
/// Inverts the byte in the middle.
void flip_byte(const std::string& path);
void halve(const std::string& path);
/// Replaces the first `from` in the file, which must be there.
void edit(const std::string& path, const std::string& from, const std::string& to);
void copy_tree(const std::string& from, const std::string& to);

}  // namespace hysparse::testing
