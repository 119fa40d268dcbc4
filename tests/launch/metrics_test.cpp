// metrics.jsonl: valid JSON whatever the numbers, doubles that read back, and a resume that drops what came
// after the checkpoint.
#include "launch/metrics.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

using nlohmann::json;
using testing::TextFiles;

StepMetrics metrics_at(std::int64_t step) {
  StepMetrics m;
  m.step = step;
  m.loss = 2.0 / 3.0 + static_cast<double>(step);
  m.lr = 3e-3;
  m.grad_norm = 0.1;
  m.tokens = step * 4096;
  m.tokens_per_s = 9120.5;
  m.step_ms = 449.1;
  m.tflops = 1e-7;
  m.memory_bytes = 123456789;
  m.memory.bytes[static_cast<std::size_t>(MemoryPurpose::optimizer)] = 1 << 20;
  return m;
}

TEST(Metrics, LineHoldsEveryField) {
  StepMetrics m = metrics_at(7);
  m.mfu = 0.25;
  m.moe_load = {{1, 1.5}, {12, 2.0}};
  m.moe_dropped = 0.125;
  m.valid_loss = 1.75;
  m.all_to_all_ms = 3.5;
  m.skipped = true;
  const json line = json::parse(metrics_line(m));
  EXPECT_EQ(line["step"], 7);
  EXPECT_EQ(line["loss"].get<double>(), m.loss);  // bit for bit
  EXPECT_EQ(line["lr"].get<double>(), 3e-3);
  EXPECT_EQ(line["grad_norm"].get<double>(), 0.1);
  EXPECT_EQ(line["tokens"], 7 * 4096);
  EXPECT_EQ(line["tokens_per_s"].get<double>(), 9120.5);
  EXPECT_EQ(line["step_ms"].get<double>(), 449.1);
  EXPECT_EQ(line["tflops"].get<double>(), 1e-7);
  EXPECT_EQ(line["mfu"].get<double>(), 0.25);
  EXPECT_EQ(line["memory_bytes"], 123456789);
  EXPECT_EQ(line["memory"].dump(), R"({"optimizer":1048576})");
  EXPECT_EQ(line["moe"]["load_max_over_mean"]["12"].get<double>(), 2.0);
  EXPECT_EQ(line["moe"]["dropped"].get<double>(), 0.125);
  EXPECT_EQ(line["valid_loss"].get<double>(), 1.75);
  EXPECT_EQ(line["all_to_all_ms"].get<double>(), 3.5);
  EXPECT_EQ(line["skipped"], true);
}

TEST(Metrics, AbsentFieldsAndShortestDigits) {
  const std::string text = metrics_line(metrics_at(1));
  EXPECT_NE(text.find("\"lr\":0.003,"), std::string::npos) << text;
  const json line = json::parse(text);
  EXPECT_TRUE(line["mfu"].is_null());
  for (const char* key : {"moe", "valid_loss", "skipped", "all_to_all_ms", "pipeline_bubble"}) {
    EXPECT_FALSE(line.contains(key)) << key;
  }
}

TEST(Metrics, NotFiniteIsNull) {
  StepMetrics m = metrics_at(1);
  m.loss = std::numeric_limits<double>::quiet_NaN();
  m.grad_norm = std::numeric_limits<double>::infinity();
  m.valid_loss = -std::numeric_limits<double>::infinity();
  const json line = json::parse(metrics_line(m));
  EXPECT_TRUE(line["loss"].is_null());
  EXPECT_TRUE(line["grad_norm"].is_null());
  EXPECT_TRUE(line["valid_loss"].is_null());
}

TEST(Metrics, ResumeDropsTornLineAndLaterSteps) {
  const TextFiles files;
  const std::string path = files.path("metrics.jsonl");
  {
    MetricsWriter writer(path, 0);
    for (std::int64_t step = 1; step <= 5; ++step) writer.write(metrics_at(step));
  }
  const std::string whole = TextFiles::read(path);
  files.write("metrics.jsonl", whole + R"({"step":6,"lo)");
  {
    MetricsWriter writer(path, 3);
    EXPECT_EQ(TextFiles::read(path), metrics_line(metrics_at(1)) + "\n" + metrics_line(metrics_at(2)) + "\n" +
                                         metrics_line(metrics_at(3)) + "\n");
    writer.write(metrics_at(4));
  }
  { MetricsWriter writer(path, 5); }
  EXPECT_EQ(TextFiles::read(path), whole.substr(0, whole.find("{\"step\":5")));
  { MetricsWriter writer(path, 0); }
  EXPECT_EQ(TextFiles::read(path), "");
}

TEST(Metrics, TrimDropsWhatIsNoMetricsOnly) {
  const TextFiles files;
  const std::string good = metrics_line(metrics_at(1)) + "\n";
  for (const std::string bad :
       {"\n", "[]\n", "{\"step\":\"1\"}\n", "{\"loss\":1}\n", "{\"step\":1.5}\n", "\0\0\n"}) {
    const std::string path = files.write("m.jsonl", bad + good);
    trim_metrics(path, 1);
    EXPECT_EQ(TextFiles::read(path), good);
  }
  // A whole last line that lost its newline is torn: the newline is part of the write.
  const std::string path = files.write("m.jsonl", good + metrics_line(metrics_at(2)));
  trim_metrics(path, 2);
  EXPECT_EQ(TextFiles::read(path), good);
  EXPECT_NO_THROW(trim_metrics(files.path("none.jsonl"), 2));
}

TEST(Metrics, FailsWhereItCannotWrite) {
  const TextFiles files;
  EXPECT_THROW(MetricsWriter(files.path("no/such/metrics.jsonl"), 0), Failure);
  AppendFile full("/dev/full");
  EXPECT_THROW(full.write("line\n"), Failure);
}

}  // namespace
}  // namespace hysparse
