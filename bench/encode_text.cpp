// Ids and speed of a tokenizer on given documents, for bench/compare_tokenizers.
//   bench_encode_text TOKENIZER DOCUMENTS THREADS [IDS]
// DOCUMENTS: one after another u32 bytes and the text. IDS: the same with u32 ids and the ids. Prints one line
// of JSON.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <thread>

#include "core/error.h"
#include "data/tokenizer.h"

namespace {

using namespace hysparse;

std::vector<std::string_view> split(const std::string& bytes) {
  std::vector<std::string_view> documents;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint32_t size = 0;
    std::memcpy(&size, bytes.data() + at, sizeof(size));
    documents.emplace_back(bytes.data() + at + sizeof(size), size);
    at += sizeof(size) + size;
  }
  return documents;
}

void write(const std::string& path, const std::vector<std::vector<std::int32_t>>& ids) {
  std::ofstream out(path, std::ios::binary);
  for (const auto& document : ids) {
    const auto count = static_cast<std::uint32_t>(document.size());
    out.write(reinterpret_cast<const char*>(&count), sizeof(count));
    out.write(reinterpret_cast<const char*>(document.data()),
              static_cast<std::streamsize>(document.size() * sizeof(std::int32_t)));
  }
  if (!out.flush()) throw_failure("{}: cannot be written", path);
}

int run(int argc, char** argv) {
  if (argc < 4) throw_error("usage: {} TOKENIZER DOCUMENTS THREADS [IDS]", argv[0]);
  const auto tokenizer = make_tokenizer(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (bytes.empty()) throw_error("{}: cannot be read", argv[2]);
  const auto documents = split(bytes);
  std::vector<std::vector<std::int32_t>> ids(documents.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    std::vector<std::int32_t> room;
    for (std::size_t i = next++; i < documents.size(); i = next++) {
      room.clear();
      tokenizer->encode(documents[i], room);
      ids[i].assign(room.begin(), room.end());
    }
  };
  const auto begin = std::chrono::steady_clock::now();
  const std::clock_t begin_processor = std::clock();
  std::vector<std::thread> threads;
  for (int i = 0; i < std::stoi(argv[3]); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  const double processor = static_cast<double>(std::clock() - begin_processor) / CLOCKS_PER_SEC;
  std::size_t text_bytes = 0, tokens = 0;
  for (const auto& document : documents) text_bytes += document.size();
  for (const auto& document : ids) tokens += document.size();
  if (argc > 4) write(argv[4], ids);
  fmt::print("{{\"seconds\": {:.3f}, \"processor\": {:.3f}, \"bytes\": {}, \"tokens\": {}}}\n", seconds.count(),
             processor, text_bytes, tokens);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
