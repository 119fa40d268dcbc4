// Allocation for the replay test: what is larger than any small file needs is refused.
#include <cstdlib>
#include <new>

namespace {
constexpr std::size_t most_bytes_at_once = std::size_t{80} << 20;
}

void* operator new(std::size_t bytes) {
  void* const memory = bytes > most_bytes_at_once ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void operator delete(void* memory) noexcept {
  std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
