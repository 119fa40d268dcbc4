/// What a person sees of a training run: on a terminal one line that is drawn again and again (bar, time left,
/// figures), elsewhere a plain line now and then; lines also go to log.txt.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>

#include "launch/append_file.h"
#include "launch/metrics.h"

namespace hysparse {

/// "step 120/300  loss 2.3100  lr 3.00e-03  grad_norm 0.710  tokens/s 9.12k  tflops 0.061  mfu -  memory 185
/// MiB", with "  valid_loss 2.4000" on evaluation steps.
std::string progress_line(const StepMetrics& metrics, std::int64_t total_steps);

/// "[#######-------] 120/300 40% 1:23 left  loss 2.3100 ...": at most `columns` wide, figures dropped from the
/// right.
std::string progress_bar(const StepMetrics& metrics, std::int64_t total_steps, double seconds_left,
                         int columns);

/// "1:05", "2:03:04", "3d 04h".
std::string duration_text(double seconds);
/// "950", "9.12k", "3.4M".
std::string count_text(double count);

class Progress {
 public:
  struct Options {
    std::int64_t total_steps = 0;
    std::string log_path;  ///< appended to; empty: none
    double seconds_between_lines = 10;
    std::FILE* out = stdout;
    std::function<int()> columns;  ///< of the terminal, 0: none; absent: asks the system
  };
  explicit Progress(Options options);
  /// Ends the drawn line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// A line of its own, on the console and in the log. Throws Failure when the log cannot be written.
  void message(const std::string& text);
  /// One step is done.
  void step(const StepMetrics& metrics);

 private:
  using Clock = std::chrono::steady_clock;

  void draw(const StepMetrics& metrics, int columns);
  void clear();
  double seconds_left(const StepMetrics& metrics);

  Options options_;
  std::unique_ptr<AppendFile> log_;
  bool drawn_ = false;  // the cursor stands behind a bar
  bool started_ = false;
  double seconds_per_step_ = 0;  // smoothed
  Clock::time_point last_line_, last_draw_, last_step_;
};

}  // namespace hysparse
