
#include "core/error.h"
#include "parallel/communicator.h"

namespace hysparse {
namespace {

/// Of what was done at once.
class Done final : public Pending {
 public:
  void wait() override {}
  bool test() override { return true; }
};

class LocalCommunicator final : public Communicator {
 public:
  explicit LocalCommunicator(std::string name) : name_(std::move(name)) {}

  const std::string& name() const override { return name_; }
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_reduce(const Tensor&) override { count("all_reduce", 0); }
  void reduce_scatter(const Tensor& in, const Tensor& out) override {
    check_reduce_scatter(in, out);
    count("reduce_scatter", 0);
    copy(in, out);
  }
  void all_gather(const Tensor& in, const Tensor& out) override {
    check_all_gather(in, out);
    count("all_gather", 0);
    copy(in, out);
  }
  void all_to_all(const Tensor& in, std::span<const std::int64_t> send_rows, const Tensor& out,
                  std::span<const std::int64_t> receive_rows) override {
    check_all_to_all(in, send_rows, out, receive_rows);
    HYSPARSE_CHECK(send_rows[0] == receive_rows[0], "{}: {} and {} rows", name_, send_rows[0], receive_rows[0]);
    count("all_to_all", 0);
    copy(in, out);
  }
  void broadcast(const Tensor&, int root) override {
    HYSPARSE_CHECK(root == 0, "{}: root {}", name_, root);
    count("broadcast", 0);
  }
  std::unique_ptr<Pending> send(const Tensor&, int to, int) override {
    HYSPARSE_CHECK(false, "{}: send to {} in a group of one", name_, to);
    return nullptr;
  }
  std::unique_ptr<Pending> receive(const Tensor&, int from, int) override {
    HYSPARSE_CHECK(false, "{}: receive from {} in a group of one", name_, from);
    return nullptr;
  }
  void barrier() override { count("barrier", 0); }
  std::unique_ptr<Pending> start_reduce_scatter(const Tensor& in, const Tensor& out) override {
    reduce_scatter(in, out);
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> start_all_gather(const Tensor& in, const Tensor& out) override {
    all_gather(in, out);
    return std::make_unique<Done>();
  }

 private:
  static void copy(const Tensor& in, const Tensor& out) {
    if (in.numel() > 0 && in.raw() != out.raw()) out.copy_from(in.view(out.shape()));
  }

  std::string name_;
};

}  // namespace

std::unique_ptr<Communicator> local_communicator(std::string name) {
  return std::make_unique<LocalCommunicator>(std::move(name));
}

}  // namespace hysparse
