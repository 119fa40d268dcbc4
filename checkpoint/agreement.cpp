#include "checkpoint/agreement.h"

#include <algorithm>
#include <cstring>

#include "parallel/process_group.h"

namespace hysparse {

std::vector<std::string> gather_texts(Communicator& group, const std::string& text) {
  const auto ranks = static_cast<std::size_t>(group.size());
  const Tensor lengths = Tensor::empty({group.size()}, DType::i64);
  group.all_gather(Tensor::from<std::int64_t>({static_cast<std::int64_t>(text.size())}, {1}), lengths);
  const std::int64_t* length = lengths.data<std::int64_t>();
  const std::int64_t longest = *std::max_element(length, length + ranks);
  std::vector<std::string> texts(ranks);
  if (longest == 0) return texts;

  const Tensor own = Tensor::zeros({longest}, DType::u8);
  if (!text.empty()) std::memcpy(own.raw(), text.data(), text.size());
  const Tensor all = Tensor::empty({group.size(), longest}, DType::u8);
  group.all_gather(own, all);
  for (std::size_t r = 0; r < ranks; ++r) {
    texts[r].assign(static_cast<const char*>(all.raw()) + static_cast<std::int64_t>(r) * longest,
                    static_cast<std::size_t>(length[r]));
  }
  return texts;
}

void agree_on_failures(const std::vector<std::string>& messages) {
  for (std::size_t r = 0; r < messages.size(); ++r) {
    if (messages[r].empty()) continue;
    throw AgreedFailure(messages.size() == 1 ? messages[r] : fmt::format("rank {}: {}", r, messages[r]));
  }
}

void agree(Communicator& group, const std::function<void()>& body) {
  std::string message;
  try {
    body();
  } catch (const std::exception& error) {
    message = error.what();
    if (message.empty()) message = "failed";
  }
  agree_on_failures(gather_texts(group, message));
}

}  // namespace hysparse
