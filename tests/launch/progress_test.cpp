// The console: plain lines now and then, a bar that fits the terminal, and the same lines in log.txt.
#include "launch/progress.h"

#include <algorithm>
#include <memory>

#include <gtest/gtest.h>

#include "core/memory.h"
#include "tests/launch/text_files.h"

namespace hysparse {
namespace {

using testing::TextFiles;

StepMetrics metrics_at(std::int64_t step) {
  StepMetrics m;
  m.step = step;
  m.loss = 2.31;
  m.lr = 3e-3;
  m.grad_norm = 0.71;
  m.tokens_per_s = 9120.5;
  m.tflops = 0.0613;
  m.memory_bytes = 185ll << 20;
  return m;
}

/// What a Progress writes to its console.
class Console {
 public:
  explicit Console(const TextFiles& files)
      : path_(files.path("console")), file_(std::fopen(path_.c_str(), "w")) {}
  ~Console() { std::fclose(file_); }
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;
  std::FILE* file() const { return file_; }
  std::string text() const {
    std::fflush(file_);
    return TextFiles::read(path_);
  }

 private:
  std::string path_;
  std::FILE* file_;
};

Progress::Options options_for(const Console& console, int columns) {
  Progress::Options options;
  options.total_steps = 300;
  options.out = console.file();
  options.seconds_between_lines = 1000;
  options.columns = [columns] { return columns; };
  return options;
}

TEST(Progress, Line) {
  StepMetrics m = metrics_at(120);
  EXPECT_EQ(progress_line(m, 300),
            "step 120/300  loss 2.3100  lr 3.00e-03  grad_norm 0.710  tokens/s 9.12k  tflops 0.0613  mfu -  "
            "memory 185 MiB");
  m.mfu = 0.4567;
  m.valid_loss = 2.4;
  m.skipped = true;
  EXPECT_TRUE(progress_line(m, 300).ends_with("  mfu 45.7%  memory 185 MiB  skipped  valid_loss 2.4000"));
}

TEST(Progress, BarFitsAnyWidth) {
  const StepMetrics m = metrics_at(150);
  for (int columns = 0; columns < 200; ++columns) {
    EXPECT_LE(progress_bar(m, 300, 61, columns).size(), static_cast<std::size_t>(columns));
  }
  const std::string bar = progress_bar(m, 300, 61, 60);
  EXPECT_EQ(bar, "[##########----------] 150/300 50% 1:01 left  loss 2.3100");
  EXPECT_TRUE(
      progress_bar(metrics_at(300), 300, 0, 80).starts_with("[####################] 300/300 100% 0:00 left"));
}

TEST(Progress, Units) {
  EXPECT_EQ(duration_text(0), "0:00");
  EXPECT_EQ(duration_text(65), "1:05");
  EXPECT_EQ(duration_text(3600 * 2 + 60 * 3 + 4), "2:03:04");
  EXPECT_EQ(duration_text(3 * 86400 + 4 * 3600), "3d 04h");
  EXPECT_EQ(duration_text(-1), "-");
  EXPECT_EQ(count_text(950), "950");
  EXPECT_EQ(count_text(3.4e6), "3.4M");
  EXPECT_EQ(bytes_text(512), "512 B");
  EXPECT_EQ(bytes_text(3ll << 29), "1.5 GiB");
}

TEST(Progress, PlainLinesAreFew) {
  const TextFiles files;
  const Console console(files);
  Progress::Options options = options_for(console, 0);
  options.log_path = files.path("log.txt");
  {
    Progress progress(options);
    progress.message("begin");
    for (std::int64_t step = 1; step <= 300; ++step) {
      StepMetrics m = metrics_at(step);
      if (step == 200) m.valid_loss = 2.0;
      progress.step(m);
    }
  }
  const std::string text = console.text();
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;  // the message, steps 1, 200 and 300
  EXPECT_NE(text.find("step 200/300"), std::string::npos);
  EXPECT_EQ(TextFiles::read(files.path("log.txt")), text);
}

TEST(Progress, EveryStepIsDueWithoutAnInterval) {
  const TextFiles files;
  const Console console(files);
  Progress::Options options = options_for(console, 0);
  options.seconds_between_lines = 0;
  Progress progress(options);
  for (std::int64_t step = 1; step <= 10; ++step) progress.step(metrics_at(step));
  const std::string text = console.text();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10);
}

TEST(Progress, TerminalRedrawsOneLine) {
  const TextFiles files;
  const Console console(files);
  Progress::Options options = options_for(console, 100);
  options.log_path = files.path("log.txt");
  {
    Progress progress(options);
    for (std::int64_t step = 1; step <= 300; ++step) progress.step(metrics_at(step));
  }
  const std::string text = console.text();
  EXPECT_NE(text.find("\r\x1b[2K["), std::string::npos);
  EXPECT_TRUE(text.ends_with("\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;  // the last step's line, the end of the bar
  const std::string log = TextFiles::read(files.path("log.txt"));
  EXPECT_EQ(log.find('\x1b'), std::string::npos);
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 2) << log;  // the first step's line and the last's
}

}  // namespace
}  // namespace hysparse
