#include "checkpoint/agreement.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

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

void require_shared_directory(Communicator& group, const std::string& directory, double patience_s) {
  if (group.size() == 1) return;
  const std::filesystem::path mark = std::filesystem::path(directory) / ".seen-by-all-ranks";
  agree(group, [&] {
    if (group.rank() == 0 && !std::ofstream(mark)) throw_failure("{}: cannot be written", mark.string());
  });
  std::string unseen;
  try {
    agree(group, [&] {
      const auto start = std::chrono::steady_clock::now();
      while (!std::filesystem::exists(mark)) {
        if (std::chrono::steady_clock::now() - start > std::chrono::duration<double>(patience_s)) {
          throw_failure(
              "{}: does not show what rank 0 wrote there {} s ago; all ranks must share the directory",
              directory, patience_s);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
  } catch (const AgreedFailure& e) {
    unseen = e.what();
  }
  if (group.rank() == 0) {
    std::error_code ignored;
    std::filesystem::remove(mark, ignored);
  }
  if (!unseen.empty()) throw AgreedFailure(unseen);
}

}  // namespace hysparse
