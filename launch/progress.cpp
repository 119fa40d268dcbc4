#include "launch/progress.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/memory.h"
#include "launch/progress_terminal.h"

namespace hysparse {
namespace {

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.1f}%", *share * 100) : std::string("-");
}

/// The figures, most wanted first.
std::vector<std::string> figures(const StepMetrics& m) {
  std::vector<std::string> texts = {
      fmt::format("loss {:.4f}", m.loss),
      fmt::format("lr {:.2e}", m.lr),
      fmt::format("grad_norm {:.3f}", m.grad_norm),
      fmt::format("tokens/s {}", count_text(m.tokens_per_s)),
      fmt::format("tflops {:.3g}", m.tflops),
      fmt::format("mfu {}", percent(m.mfu)),
      fmt::format("memory {}", bytes_text(m.memory_bytes)),
  };
  if (m.skipped) texts.emplace_back("skipped");
  if (m.valid_loss) texts.push_back(fmt::format("valid_loss {:.4f}", *m.valid_loss));
  return texts;
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  const auto s = static_cast<std::int64_t>(std::llround(std::min(seconds, 1e12)));
  constexpr std::int64_t minute = 60, hour = 3600, day = 86400;
  if (s >= day) return fmt::format("{}d {:02}h", s / day, s % day / hour);
  if (s >= hour) return fmt::format("{}:{:02}:{:02}", s / hour, s % hour / minute, s % minute);
  return fmt::format("{}:{:02}", s / minute, s % minute);
}

std::string count_text(double count) {
  if (!std::isfinite(count)) return "-";
  if (count < 1e3) return fmt::format("{:.3g}", count);
  if (count < 1e6) return fmt::format("{:.3g}k", count / 1e3);
  return fmt::format("{:.3g}M", count / 1e6);
}

std::string progress_line(const StepMetrics& metrics, std::int64_t total_steps) {
  return fmt::format("step {}/{}  {}", metrics.step, total_steps, fmt::join(figures(metrics), "  "));
}

std::string progress_bar(const StepMetrics& metrics, std::int64_t total_steps, double seconds_left,
                         int columns) {
  constexpr int cells = 20;
  const double done =
      total_steps > 0 ? static_cast<double>(metrics.step) / static_cast<double>(total_steps) : 1.0;
  const auto filled = static_cast<std::size_t>(std::clamp(done, 0.0, 1.0) * cells);
  std::string text =
      fmt::format("[{}{}] {}/{} {:.0f}% {} left", std::string(filled, '#'), std::string(cells - filled, '-'),
                  metrics.step, total_steps, done * 100, duration_text(seconds_left));
  const auto room = static_cast<std::size_t>(std::max(columns, 0));
  for (const std::string& figure : figures(metrics)) {
    if (text.size() + 2 + figure.size() > room) break;
    text += "  " + figure;
  }
  return text.substr(0, room);
}

Progress::Progress(Options options) : options_(std::move(options)) {
  if (!options_.columns) options_.columns = terminal_columns;
  if (!options_.log_path.empty()) log_ = std::make_unique<AppendFile>(options_.log_path);
}

Progress::~Progress() {
  if (!drawn_) return;
  std::fputc('\n', options_.out);
  std::fflush(options_.out);
}

void Progress::message(const std::string& text) {
  clear();
  fmt::print(options_.out, "{}\n", text);
  std::fflush(options_.out);
  if (log_) log_->write(text + "\n");
}

void Progress::step(const StepMetrics& metrics) {
  const Clock::time_point now = Clock::now();
  if (started_) {
    // The first intervals decide alone; later ones are smoothed over about twenty steps.
    const double seconds = seconds_between(last_step_, now);
    seconds_per_step_ = seconds_per_step_ == 0 ? seconds : 0.95 * seconds_per_step_ + 0.05 * seconds;
  }
  last_step_ = now;
  const bool last = metrics.step == options_.total_steps;
  const bool line_due = !started_ || last || metrics.valid_loss ||
                        seconds_between(last_line_, now) >= options_.seconds_between_lines;
  started_ = true;
  const int columns = options_.columns();
  if (line_due) last_line_ = now;
  if (columns == 0) {
    if (line_due) message(progress_line(metrics, options_.total_steps));
    return;
  }
  constexpr double seconds_between_draws = 0.1;
  if (metrics.valid_loss || last) {
    message(progress_line(metrics, options_.total_steps));  // stays above the bar
  } else if (line_due && log_) {
    log_->write(progress_line(metrics, options_.total_steps) + "\n");
  }
  if (last || seconds_between(last_draw_, now) >= seconds_between_draws) draw(metrics, columns);
}

void Progress::draw(const StepMetrics& metrics, int columns) {
  last_draw_ = Clock::now();
  // One column stays free: a full line would wrap and scroll.
  fmt::print(options_.out, "\r\x1b[2K{}",
             progress_bar(metrics, options_.total_steps, seconds_left(metrics), columns - 1));
  std::fflush(options_.out);
  drawn_ = true;
}

void Progress::clear() {
  if (!drawn_) return;
  fmt::print(options_.out, "\r\x1b[2K");
  drawn_ = false;
}

double Progress::seconds_left(const StepMetrics& metrics) {
  const double fallback = metrics.step_ms / 1000;
  const double seconds = seconds_per_step_ > 0 ? seconds_per_step_ : fallback;
  return seconds * static_cast<double>(std::max<std::int64_t>(options_.total_steps - metrics.step, 0));
}

}  // namespace hysparse
