/// What a person sees of a long `prepare`: on a terminal one line that is drawn again and again, elsewhere a
/// plain line now and then.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>

namespace hysparse {

struct PrepareFigures {
  std::int64_t read_bytes = 0;   ///< of the input files
  std::int64_t total_bytes = 0;  ///< of the input files; 0: not known (standard input)
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
};

/// "45%  1.2 GiB of 2.6 GiB  210 MB/s  0:07 left  1.2M documents  345M tokens"; without a total "1.2 GiB  210
/// MB/s  1.2M documents  345M tokens". `seconds` is the time since `begin_bytes` were read.
std::string prepare_progress_line(const PrepareFigures& figures, std::int64_t begin_bytes, double seconds);

class PrepareProgress {
 public:
  /// `begin_bytes` were read before (by a run that this one goes on from). `columns` of the terminal, 0: none.
  explicit PrepareProgress(std::int64_t begin_bytes = 0, std::FILE* out = stdout,
                           std::function<int()> columns = {}, double seconds_between_lines = 10);
  /// Takes the drawn line away.
  ~PrepareProgress();
  PrepareProgress(const PrepareProgress&) = delete;
  PrepareProgress& operator=(const PrepareProgress&) = delete;

  void update(const PrepareFigures& figures);
  /// A line of its own.
  void message(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;
  void clear();

  std::int64_t begin_bytes_;
  std::FILE* out_;
  std::function<int()> columns_;
  double seconds_between_lines_;
  Clock::time_point begin_ = Clock::now(), last_draw_, last_line_ = begin_;
  bool drawn_ = false;
};

}  // namespace hysparse
