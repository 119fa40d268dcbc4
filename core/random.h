/// Counter-based random numbers: a value is a pure function of (seed, stream name, index), so that initial
/// values and shuffles do not depend on the layout. Philox 4x32-10 (Salmon et al., SC 2011).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace hysparse {

/// One Philox 4x32-10 block: counter (4 words), key (2 words) -> 4 random words.
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

/// 64-bit FNV-1a, to turn a name into a stream.
std::uint64_t hash_name(std::string_view name);

/// A stream of random numbers addressed by index.
class CounterRandom {
 public:
  CounterRandom(std::uint64_t seed, std::string_view name);

  /// 64 random bits of `index`.
  std::uint64_t bits(std::uint64_t index) const;
  /// Uniform in [0, 1), 53 bits.
  double uniform(std::uint64_t index) const;
  /// Uniform integer in [0, bound), bound >= 1 (multiply-shift of 64 bits: bias below 2^-32 for bounds below
  /// 2^32).
  std::uint64_t below(std::uint64_t index, std::uint64_t bound) const;
  /// Standard normal (Box-Muller in double).
  double normal(std::uint64_t index) const;

 private:
  std::array<std::uint32_t, 4> block(std::uint64_t index) const;
  std::array<std::uint32_t, 2> key_;
  std::uint64_t name_;
};

}  // namespace hysparse
