#include "launch/verify_tokens.h"

#include <vector>

#include "core/random.h"
#include "data/token_writer.h"

namespace hysparse {

void write_random_tokens(const std::string& path, std::int64_t vocab_size, std::int64_t tokens) {
  constexpr std::uint64_t longest = 200;
  const CounterRandom ids(0, "verify.tokens"), lengths(0, "verify.documents");
  TokenWriter writer(path, {"random", "", vocab_size, 0, "hysparse verify"});
  std::uint64_t next = 0;
  for (std::uint64_t document = 0; writer.num_tokens() < tokens; ++document) {
    std::vector<std::int32_t> text(lengths.below(document, longest) + 1);
    for (std::int32_t& id : text) {
      const double u = ids.uniform(next++);
      id = static_cast<std::int32_t>(u * u * static_cast<double>(vocab_size));
    }
    text.push_back(0);
    writer.append_document(text);
  }
  writer.finish();
  writer.commit();
}

}  // namespace hysparse
