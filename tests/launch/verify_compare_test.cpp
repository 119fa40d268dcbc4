// The comparison of two runs, its table and its files.
#include "launch/verify_compare.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/token_file.h"
#include "launch/verify_process.h"
#include "launch/verify_report.h"
#include "launch/verify_tokens.h"
#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

const VerifyTolerances fp64 = verify_tolerances(DType::f64), fp32 = verify_tolerances(DType::f32);

VerifyGradient gradient(const std::string& name, const std::vector<double>& values) {
  const auto size = static_cast<std::int64_t>(values.size());
  return {name, Tensor::from<double>(values, {size}), size, 0};
}

VerifyResult some_result() {
  VerifyResult result;
  result.steps = {{5.0, 2.0}, {4.5, 1.5}, {4.0, 1.0}};
  result.gradients = {gradient("a", {3, 4}), gradient("b", {1e-3}), gradient("zero", {0, 0})};
  return result;
}

TEST(VerifyCompare, EqualRunsPass) {
  const VerifyComparison c = compare_results(some_result(), some_result(), fp64);
  EXPECT_TRUE(c.passed);
  EXPECT_EQ(c.loss, 0);
  EXPECT_EQ(c.grad_norm, 0);
  EXPECT_EQ(c.worst.difference, 0);
  EXPECT_EQ(c.worst.name, "a");
}

TEST(VerifyCompare, DifferencesAreRelative) {
  VerifyResult result = some_result();
  result.steps[1].loss *= 1 + 1e-6;
  result.steps[2].grad_norm *= 1 - 1e-7;
  result.gradients[0].value.data<double>()[0] += 5e-8;  // |a| is 5
  result.gradients[1].value.data<double>()[0] *= 1 + 1e-7;
  const VerifyComparison c = compare_results(result, some_result(), fp64);
  EXPECT_FALSE(c.passed);
  EXPECT_NEAR(c.loss, 1e-6, 1e-12);
  EXPECT_NEAR(c.grad_norm, 1e-7, 1e-12);
  EXPECT_EQ(c.worst.name, "b");
  EXPECT_NEAR(c.worst.difference, 1e-7, 1e-12);
  ASSERT_EQ(c.problems.size(), 4u);
  EXPECT_EQ(c.problems[0].rfind("step 2: loss 4.5", 0), 0u) << c.problems[0];
  EXPECT_EQ(c.problems[1].rfind("step 3: gradient norm 0.9", 0), 0u) << c.problems[1];
  EXPECT_EQ(c.problems[2], "gradient of b: 1.0e-07, allowed 1e-09");
  EXPECT_EQ(c.problems[3], "gradient of a: 1.0e-08, allowed 1e-09");
}

TEST(VerifyCompare, RoundingPasses) {
  VerifyResult result = some_result();
  result.steps[1].loss *= 1 + 5e-11;
  result.gradients[0].value.data<double>()[0] *= 1 + 5e-10;
  EXPECT_TRUE(compare_results(result, some_result(), fp64).passed);
}

TEST(VerifyCompare, ZeroGradientsAreJudgedAtTheScaleOfAll) {
  VerifyResult result = some_result();
  result.gradients[2].value.data<double>()[0] = 1e-16;  // |all| is 5: rounding of a sum that cancels
  const VerifyComparison rounding = compare_results(result, some_result(), fp64);
  EXPECT_TRUE(rounding.passed);
  EXPECT_LT(rounding.worst.difference, 1e-16);
  result.gradients[2].value.data<double>()[0] = 1e-3;
  const VerifyComparison wrong = compare_results(result, some_result(), fp64);
  EXPECT_FALSE(wrong.passed);
  EXPECT_EQ(wrong.worst.name, "zero");
  EXPECT_NEAR(wrong.worst.difference, 2e-4, 1e-9);
}

TEST(VerifyCompare, InFp32OnlyTheFirstStepIsJudged) {
  VerifyResult result = some_result();
  result.steps[2].loss *= 1.01;
  const VerifyComparison later = compare_results(result, some_result(), fp32);
  EXPECT_TRUE(later.passed);
  EXPECT_NEAR(later.later, 0.01, 1e-9);
  EXPECT_EQ(later.loss, 0);
  result.steps[0].loss *= 1 + 1e-5;
  EXPECT_FALSE(compare_results(result, some_result(), fp32).passed);
}

TEST(VerifyCompare, WhatIsMissingOrNotANumberFails) {
  VerifyResult fewer_steps = some_result();
  fewer_steps.steps.pop_back();
  EXPECT_FALSE(compare_results(fewer_steps, some_result(), fp64).passed);
  VerifyResult fewer_gradients = some_result();
  fewer_gradients.gradients.erase(fewer_gradients.gradients.begin());
  const VerifyComparison missing = compare_results(fewer_gradients, some_result(), fp64);
  EXPECT_FALSE(missing.passed);
  EXPECT_EQ(missing.worst.name, "a");
  VerifyResult nan = some_result();
  nan.gradients[1].value.data<double>()[0] = std::nan("");
  nan.steps[0].loss = std::nan("");
  const VerifyComparison c = compare_results(nan, some_result(), fp64);
  EXPECT_FALSE(c.passed);
  EXPECT_TRUE(std::isinf(c.loss) && std::isinf(c.worst.difference));
}

TEST(VerifyCompare, CopiesAndOwnersCount) {
  VerifyResult copies = some_result();
  copies.gradients[0].copies = 0.5;
  const VerifyComparison c = compare_results(copies, some_result(), fp64);
  EXPECT_FALSE(c.passed);
  EXPECT_NEAR(c.worst.difference, 0.1, 1e-12);
  VerifyResult owners = some_result();
  owners.gradients[0].owned = 4;
  const VerifyComparison twice = compare_results(owners, some_result(), fp64);
  EXPECT_FALSE(twice.passed);
  EXPECT_EQ(twice.problems, std::vector<std::string>{"a: 4 elements have an owner, 2 are there"});
}

TEST(VerifyCompare, ResultsSurviveTheirFiles) {
  const testing::TextFiles files;
  const std::string directory = std::filesystem::path(files.write("x", "")).parent_path().string();
  EXPECT_THROW(read_result(directory), Failure);
  VerifyResult result = some_result();
  result.steps[0].loss = 1.0 / 3;
  result.gradients[1].copies = 1e-300;
  result.traffic["tp"]["all_reduce"] = {3, 4096};
  write_result(directory, result);
  const VerifyResult read = read_result(directory);
  EXPECT_TRUE(compare_results(read, some_result(), fp32).problems.size() == 1);
  EXPECT_EQ(read.steps[0].loss, 1.0 / 3);
  ASSERT_EQ(read.gradients.size(), 3u);
  EXPECT_EQ(read.gradients[1].name, "b");
  EXPECT_EQ(read.gradients[1].copies, 1e-300);
  EXPECT_EQ(read.gradients[0].value.to_vector<double>(), (std::vector<double>{3, 4}));
  EXPECT_EQ(read.traffic.at("tp").at("all_reduce").calls, 3);
  EXPECT_EQ(read.traffic.at("tp").at("all_reduce").bytes, 4096);
}

TEST(VerifyReport, TableAndJson) {
  VerifyOutcome good{.layout = parse_layouts("tp=2,sp", 8)[0], .finished = true};
  good.comparison = compare_results(some_result(), some_result(), fp64);
  good.traffic["tp"]["all_gather"] = {2, 128};
  VerifyOutcome bad{.layout = parse_layouts("dp=8,ep=8", 8)[0]};
  bad.comparison.passed = false;
  bad.comparison.problems = {"exit status 1", "rank 3: out of luck"};
  const VerifyTable table({good.layout, bad.layout}, fp64);
  EXPECT_EQ(table.row(good), "tp=2,sp        2        0          0         0      0.0  pass    a\n");
  EXPECT_EQ(table.row(bad),
            "dp=8,ep=8      8        -          -         -      0.0  FAIL    -\n"
            "    exit status 1\n    rank 3: out of luck\n");
  EXPECT_EQ(table.header(), "layout     ranks     loss  grad_norm  gradient  seconds  result  parameter\n");
  EXPECT_EQ(verify_summary({good, bad}), "1 of 2 layouts FAIL: dp=8,ep=8");
  EXPECT_EQ(verify_summary({good}), "1 layout: equal to one rank");

  const auto json = nlohmann::json::parse(verify_json({}, "x.yaml", some_result(), fp64, {good, bad}));
  EXPECT_EQ(json["passed"], false);
  EXPECT_EQ(json["reference"]["steps"][1]["grad_norm"], 1.5);
  EXPECT_EQ(json["layouts"][0]["traffic"]["tp"]["all_gather"]["bytes"], 128);
  EXPECT_EQ(json["layouts"][0]["gradient"]["parameter"], "a");
  EXPECT_EQ(json["layouts"][0]["passed"], true);
  EXPECT_EQ(json["layouts"][1]["problems"][1], "rank 3: out of luck");
  EXPECT_FALSE(json["layouts"][1].contains("loss"));
}

TEST(VerifyProcess, WhatAFailedProgramSaid) {
  using Lines = std::vector<std::string>;
  const std::string frame = "------\nmpirun has exited\nbecause\n------\n";
  EXPECT_EQ(
      error_lines_of("step 1\nrank 1: hysparse: error: rank 1: no\nhysparse: error: rank 1: no\n" + frame),
      Lines{"rank 1: no"});
  EXPECT_EQ(error_lines_of("rank 2: hysparse: error: full\n"), Lines{"rank 2: full"});
  EXPECT_EQ(error_lines_of("Segmentation fault\n\n" + frame), Lines{"Segmentation fault"});
  EXPECT_EQ(error_lines_of(frame), (Lines{"mpirun has exited", "because"}));
  EXPECT_EQ(error_lines_of(""), Lines{});
}

TEST(VerifyTokens, AreTheSameEveryTime) {
  const testing::TextFiles files;
  const std::string a = files.write("a", ""), b = files.write("b", "");
  write_random_tokens(a, 64, 1000);
  write_random_tokens(b, 64, 1000);
  const TokenFile one(a), two(b);
  ASSERT_GE(one.num_tokens(), 1000);
  EXPECT_GT(one.num_documents(), 3);
  std::vector<std::int32_t> x(static_cast<std::size_t>(one.num_tokens())), y(x.size());
  one.read(0, x);
  two.read(0, y);
  EXPECT_EQ(x, y);
  EXPECT_LT(*std::max_element(x.begin(), x.end()), 64);
  EXPECT_GT(*std::max_element(x.begin(), x.end()), 48);
}

}  // namespace
}  // namespace hysparse
