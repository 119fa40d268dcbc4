#include "launch/prepare_progress.h"

#include <algorithm>

#include <fmt/format.h>

#include "launch/progress.h"
#include "launch/progress_terminal.h"

namespace hysparse {
namespace {

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

std::string prepare_progress_line(const PrepareFigures& figures, std::int64_t begin_bytes, double seconds) {
  const auto fresh = static_cast<double>(figures.read_bytes - begin_bytes);
  const double rate = seconds > 0 ? fresh / seconds : 0;
  std::string text;
  if (figures.total_bytes > 0) {
    const double share = static_cast<double>(figures.read_bytes) / static_cast<double>(figures.total_bytes);
    text = fmt::format("{:.0f}%  {} of {}", std::min(share, 1.0) * 100, bytes_text(figures.read_bytes),
                       bytes_text(figures.total_bytes));
  } else {
    text = bytes_text(figures.read_bytes);
  }
  text += fmt::format("  {:.3g} MB/s", rate / 1e6);
  if (figures.total_bytes > 0 && rate > 0) {
    const auto left = static_cast<double>(std::max<std::int64_t>(figures.total_bytes - figures.read_bytes, 0));
    text += fmt::format("  {} left", duration_text(left / rate));
  }
  return text + fmt::format("  {} documents  {} tokens", count_text(static_cast<double>(figures.documents)),
                            count_text(static_cast<double>(figures.tokens)));
}

PrepareProgress::PrepareProgress(std::int64_t begin_bytes, std::FILE* out, std::function<int()> columns,
                                 double seconds_between_lines)
    : begin_bytes_(begin_bytes),
      out_(out),
      columns_(columns ? std::move(columns) : terminal_columns),
      seconds_between_lines_(seconds_between_lines) {}

PrepareProgress::~PrepareProgress() {
  clear();
  std::fflush(out_);
}

void PrepareProgress::clear() {
  if (drawn_) fmt::print(out_, "\r\x1b[2K");
  drawn_ = false;
}

void PrepareProgress::message(const std::string& text) {
  clear();
  fmt::print(out_, "{}\n", text);
  std::fflush(out_);
}

void PrepareProgress::update(const PrepareFigures& figures) {
  constexpr double seconds_between_draws = 0.2;
  const Clock::time_point now = Clock::now();
  if (seconds_between(last_draw_, now) < seconds_between_draws) return;
  last_draw_ = now;
  const int columns = columns_();
  const std::string line = prepare_progress_line(figures, begin_bytes_, seconds_between(begin_, now));
  if (columns > 0) {
    fmt::print(out_, "\r\x1b[2K{}", line.substr(0, static_cast<std::size_t>(columns - 1)));
    std::fflush(out_);
    drawn_ = true;
  } else if (seconds_between(last_line_, now) >= seconds_between_lines_) {
    last_line_ = now;
    message(line);
  }
}

}  // namespace hysparse
