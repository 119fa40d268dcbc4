#include "launch/verify_compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "core/error.h"

namespace hysparse {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::size_t most_parameters = 8;  // named in one layout's problems

/// |a - b| / |b|; infinite for anything that is not a number.
double relative(double a, double b) {
  if (a == b) return 0;
  const double difference = std::abs(a - b) / std::abs(b);
  return std::isnan(difference) ? infinity : difference;
}

/// " 1.25 1.5".
std::string figures(const std::vector<double>& values) {
  std::string text;
  for (const double value : values) text += fmt::format(" {:.6g}", value);
  return text;
}

/// Norms of a tensor and of its difference from another.
struct Norms {
  double value = 0, difference = 0;
};

template <class T>
Norms norms(const Tensor& value, const Tensor* other) {
  const T* v = value.data<T>();
  const T* o = other == nullptr ? nullptr : other->data<T>();
  double squares = 0, differences = 0;
  for (std::int64_t i = 0; i < value.numel(); ++i) {
    const auto x = static_cast<double>(v[i]);
    squares += x * x;
    if (o == nullptr) continue;
    const double d = x - static_cast<double>(o[i]);
    differences += d * d;
  }
  return {std::sqrt(squares), std::sqrt(differences)};
}

Norms norms(const Tensor& value, const Tensor* other = nullptr) {
  Norms result;
  dispatch_float(value.dtype(), [&]<class T>() { result = norms<T>(value, other); });
  return result;
}

double norm_of_all(const std::vector<VerifyGradient>& gradients) {
  double squares = 0;
  for (const VerifyGradient& g : gradients) {
    const double n = norms(g.value).value;
    squares += n * n;
  }
  return std::sqrt(squares);
}

class Comparer {
 public:
  Comparer(const VerifyResult& result, const VerifyResult& reference, const VerifyTolerances& tolerances)
      : result_(result), reference_(reference), tolerances_(tolerances) {}

  VerifyComparison run() {
    steps();
    gradients();
    flips();
    comparison_.passed = comparison_.problems.empty();
    return std::move(comparison_);
  }

 private:
  void steps() {
    if (result_.steps.size() != reference_.steps.size()) {
      comparison_.problems.push_back(
          fmt::format("{} steps instead of {}", result_.steps.size(), reference_.steps.size()));
    }
    for (std::size_t i = 0; i < std::min(result_.steps.size(), reference_.steps.size()); ++i) {
      const VerifyStep &own = result_.steps[i], &expected = reference_.steps[i];
      step(i, "loss", own.loss, expected.loss, comparison_.loss);
      step(i, "gradient norm", own.grad_norm, expected.grad_norm, comparison_.grad_norm);
      if (tolerances_.all_steps) load(i, own.load, expected.load);
    }
  }

  /// Counts of tokens: the same, or some token went to another expert.
  void load(std::size_t index, const std::vector<double>& own, const std::vector<double>& expected) {
    if (own == expected || load_differs_) return;
    load_differs_ = true;
    comparison_.problems.push_back(fmt::format("step {}: the experts' load differs:{} instead of{}", index + 1,
                                               figures(own), figures(expected)));
  }

  void step(std::size_t index, const char* what, double own, double expected, double& largest) {
    const double difference = relative(own, expected);
    if (index > 0 && !tolerances_.all_steps) {
      comparison_.later = std::max(comparison_.later, difference);
      return;
    }
    // One problem of a kind: what went wrong in one step shows in all that follow.
    if (difference > tolerances_.steps && largest <= tolerances_.steps) {
      comparison_.problems.push_back(
          fmt::format("step {}: {} {:.17g} instead of {:.17g}: {:.1e}, allowed {:.0e}", index + 1, what, own,
                      expected, difference, tolerances_.steps));
    }
    largest = std::max(largest, difference);
  }

  void gradients() {
    const double all = norm_of_all(reference_.gradients);
    std::vector<GradientDifference> wrong;
    for (const VerifyGradient& expected : reference_.gradients) {
      const GradientDifference d{expected.name, difference(expected, all)};
      if (d.difference > comparison_.worst.difference || comparison_.worst.name.empty()) comparison_.worst = d;
      if (d.difference > tolerances_.gradients) wrong.push_back(d);
    }
    std::stable_sort(wrong.begin(), wrong.end(),
                     [](const auto& a, const auto& b) { return a.difference > b.difference; });
    for (std::size_t i = 0; i < std::min(wrong.size(), most_parameters); ++i) {
      comparison_.problems.push_back(fmt::format("gradient of {}: {:.1e}, allowed {:.0e}", wrong[i].name,
                                                 wrong[i].difference, tolerances_.gradients));
    }
    if (wrong.size() > most_parameters)
      comparison_.problems.push_back(fmt::format("and {} more gradients", wrong.size() - most_parameters));
  }

  void flips() {
    comparison_.flips = result_.flips;
    if (result_.flips.largest_margin <= tolerances_.margin) return;
    comparison_.problems.push_back(fmt::format(
        "{} of {} choices of blocks and experts would be others, by a margin of up to {:.1e}, allowed {:.0e}",
        result_.flips.flips, result_.flips.choices, result_.flips.largest_margin, tolerances_.margin));
  }

  double difference(const VerifyGradient& expected, double all) {
    const auto own = std::find_if(result_.gradients.begin(), result_.gradients.end(),
                                  [&](const VerifyGradient& g) { return g.name == expected.name; });
    if (own == result_.gradients.end() || own->value.shape() != expected.value.shape() ||
        own->value.dtype() != expected.value.dtype()) {
      return infinity;
    }
    if (own->owned != own->value.numel()) {
      comparison_.problems.push_back(fmt::format("{}: {} elements have an owner, {} are there", expected.name,
                                                 own->owned, own->value.numel()));
    }
    const Norms n = norms(expected.value, &own->value);
    const double scale = n.value > tolerances_.zero * all ? n.value : all;
    const double largest = std::max(n.difference, own->copies);
    if (std::isnan(n.difference) || std::isnan(own->copies)) return infinity;
    return largest == 0 ? 0 : largest / scale;
  }

  const VerifyResult& result_;
  const VerifyResult& reference_;
  const VerifyTolerances& tolerances_;
  VerifyComparison comparison_;
  bool load_differs_ = false;
};

}  // namespace

VerifyTolerances verify_tolerances(DType dtype, Device device) {
  // A GPU's products add in an order of their own for every shape.
  if (!device.is_cpu())
    return {.steps = 1e-5, .gradients = 1e-3, .all_steps = false, .zero = 1e-5, .margin = 1e-5};
  if (dtype == DType::f64) return {.steps = 1e-10, .gradients = 1e-9, .all_steps = true, .zero = 1e-12};
  return {.steps = 1e-6, .gradients = 1e-5, .all_steps = false, .zero = 1e-6, .margin = 1e-5};
}

VerifyComparison compare_results(const VerifyResult& result, const VerifyResult& reference,
                                 const VerifyTolerances& tolerances) {
  return Comparer(result, reference, tolerances).run();
}

}  // namespace hysparse
