#include "core/random.h"

#include <cmath>
#include <numbers>

namespace hysparse {
namespace {

constexpr std::uint32_t multiplier_0 = 0xD2511F53u, multiplier_1 = 0xCD9E8D57u;
constexpr std::uint32_t weyl_0 = 0x9E3779B9u, weyl_1 = 0xBB67AE85u;

std::uint32_t low(std::uint64_t x) {
  return static_cast<std::uint32_t>(x);
}
std::uint32_t high(std::uint64_t x) {
  return static_cast<std::uint32_t>(x >> 32);
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(multiplier_0) * c[0];
    const std::uint64_t p1 = static_cast<std::uint64_t>(multiplier_1) * c[2];
    c = {high(p1) ^ c[1] ^ k[0], low(p1), high(p0) ^ c[3] ^ k[1], low(p0)};
    k = {k[0] + weyl_0, k[1] + weyl_1};
  }
  return c;
}

std::uint64_t hash_name(std::string_view name) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

CounterRandom::CounterRandom(std::uint64_t seed, std::string_view name)
    : key_{low(seed), high(seed)}, name_(hash_name(name)) {}

std::array<std::uint32_t, 4> CounterRandom::block(std::uint64_t index) const {
  return philox({low(index), high(index), low(name_), high(name_)}, key_);
}

std::uint64_t CounterRandom::bits(std::uint64_t index) const {
  const auto b = block(index);
  return static_cast<std::uint64_t>(b[1]) << 32 | b[0];
}

double CounterRandom::uniform(std::uint64_t index) const {
  return static_cast<double>(bits(index) >> 11) * 0x1p-53;
}

std::uint64_t CounterRandom::below(std::uint64_t index, std::uint64_t bound) const {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(static_cast<Wide>(bits(index)) * bound >> 64);
}

double CounterRandom::normal(std::uint64_t index) const {
  const auto b = block(index);
  const auto word = [&](std::size_t i) { return (static_cast<std::uint64_t>(b[i + 1]) << 32 | b[i]) >> 11; };
  const double u = (static_cast<double>(word(0)) + 0.5) * 0x1p-53;  // in (0, 1)
  const double v = static_cast<double>(word(2)) * 0x1p-53;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace hysparse
