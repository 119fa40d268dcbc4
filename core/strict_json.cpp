#include "core/strict_json.h"

#include <vector>

#include "core/error.h"
#include "core/printable.h"

namespace hysparse {
namespace {

using nlohmann::json;

/// Builds the value; stops at the first fault, which `fault` then holds.
class Builder : public nlohmann::json_sax<json> {
 public:
  json root;
  std::string fault;

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return fail("binary value"); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (stack_.back()->contains(name)) return fail("key '" + printable(name) + "' appears twice");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const json::exception& error) override {
    return fail("not valid JSON: " + json_reason(error));
  }

 private:
  static constexpr std::size_t max_depth = 16;

  bool fail(std::string reason) {
    fault = std::move(reason);
    return false;
  }
  json* place(json value) {
    if (stack_.empty()) {
      root = std::move(value);
      return &root;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    return &(parent[key_] = std::move(value));
  }
  bool put(json value) {
    place(std::move(value));
    return true;
  }
  bool open(json value) {
    if (stack_.size() == max_depth) return fail(fmt::format("nested deeper than {}", max_depth));
    stack_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  // A parent does not grow while a child is open, so these stay valid.
  std::vector<json*> stack_;
  std::string key_;
};

}  // namespace

bool parse_events(std::string_view text, nlohmann::json_sax<json>* handler) {
  if (const std::size_t at = text.find('\0'); at != std::string_view::npos) {
    return handler->parse_error(at, "", json::other_error::create(0, "NUL byte in the text", nullptr));
  }
  return json::sax_parse(text.begin(), text.end(), handler);
}

nlohmann::json parse_json(std::string_view text, const std::string& path) {
  Builder builder;
  if (!parse_events(text, &builder)) throw_error("{}: {}", path, builder.fault);
  return std::move(builder.root);
}

std::string json_reason(const std::exception& error) {
  std::string_view reason = error.what();
  if (const auto end = reason.find("] "); end != std::string_view::npos) reason.remove_prefix(end + 2);
  return printable(reason, 300);
}

std::string json_in_message(const nlohmann::json& value) {
  return printable(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace hysparse
