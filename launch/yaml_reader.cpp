#include "launch/yaml_reader.h"

#include <sstream>
#include <unordered_map>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "checkpoint/file.h"

namespace hysparse {
namespace {

constexpr std::size_t max_bytes = 256 * 1024;
constexpr std::size_t max_depth = 16;      // a config needs 4
constexpr std::size_t max_problems = 100;  // of one file

/// Bytes of the UTF-8 character at text[i], 0 when it is broken (truncated, overlong, surrogate, out of range).
std::size_t utf8_length(const std::string& text, std::size_t i) {
  const auto byte = [&](std::size_t at) {
    return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u;
  };
  const unsigned first = byte(i);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (std::size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xc0u) != 0x80u) return 0;
  }
  const unsigned second = byte(i + 1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90)) {
    return 0;
  }
  return length;
}

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

/// The first byte that no text file holds, as "line: problem"; empty when all is text.
std::string text_problem(const std::string& text, const std::string& name) {
  int line = 1;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text, i);
    const char c = text[i];
    if (length == 0 || (is_control(c) && c != '\n' && c != '\r' && c != '\t')) {
      return fmt::format("{}:{}: not UTF-8 text (byte 0x{:02x})", name, line, static_cast<unsigned char>(c));
    }
    if (c == '\n') ++line;
    i += length;
  }
  return {};
}

/// What the text is called in messages: a file with lines, or a value alone.
struct Source {
  std::string name;
  bool has_lines = true;

  std::string where(const YAML::Mark& mark) const {
    return has_lines ? fmt::format("{}:{}", name, mark.line + 1) : name;  // marks count from 0
  }
};

/// Thrown out of the parser when reading on makes no sense.
struct Stop {
  std::string problem;
};

/// Builds the tree from the parser's events, so that places, quotes and duplicates are not lost.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(Source source, std::vector<std::string>& problems)
      : source_(std::move(source)), problems_(problems) {}

  YamlPointer root() const { return root_; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    add(node(mark, YamlNode::Kind::null), anchor, mark);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    const YamlPointer scalar = node(mark, YamlNode::Kind::scalar);
    scalar->text = value;
    scalar->quoted = tag == "!";
    add(scalar, anchor, mark);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    // Only of single values: lists of aliases of lists grow without bound, and sections have `base`.
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end())
      throw Stop{where(mark) + ": an alias may stand for a single value only; use base: to share sections"};
    add(found->second, 0, mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open(node(mark, YamlNode::Kind::sequence), anchor, mark);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check_tag(mark, tag);
    open(node(mark, YamlNode::Kind::mapping), anchor, mark);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YamlPointer node;
    YAML::anchor_t anchor = 0;
    YAML::Mark mark;
    bool has_key = false;  // of a mapping: the next value belongs to `key`
    std::string key, key_where;
    std::unordered_map<std::string, std::string> places;  // of the keys so far
  };

  std::string where(const YAML::Mark& mark) const { return source_.where(mark); }
  YamlPointer node(const YAML::Mark& mark, YamlNode::Kind kind) const {
    auto made = std::make_shared<YamlNode>();
    made->kind = kind;
    made->where = where(mark);
    return made;
  }
  void problem(std::string text) {
    if (problems_.size() >= max_problems) throw Stop{source_.name + ": too many problems, reading no further"};
    problems_.push_back(std::move(text));
  }
  void check_tag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!")
      problem(fmt::format("{}: the tag {} has no meaning here", where(mark), printable(tag)));
  }
  void open(YamlPointer made, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (frames_.size() >= max_depth)
      throw Stop{fmt::format("{}: nested more than {} levels deep", where(mark), max_depth)};
    Frame frame;
    frame.node = std::move(made);
    frame.anchor = anchor;
    frame.mark = mark;
    frames_.push_back(std::move(frame));
  }
  void close() {
    const Frame frame = std::move(frames_.back());
    frames_.pop_back();
    add(frame.node, frame.anchor, frame.mark);
  }
  void add(const YamlPointer& made, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (anchor != 0 && (made->kind == YamlNode::Kind::scalar || made->kind == YamlNode::Kind::null))
      anchors_[anchor] = made;
    if (frames_.empty()) {
      root_ = made;
      return;
    }
    Frame& frame = frames_.back();
    if (frame.node->kind == YamlNode::Kind::sequence) {
      frame.node->items.push_back(made);
    } else if (!frame.has_key) {
      if (made->kind != YamlNode::Kind::scalar)
        problem(where(mark) + ": a key must be a name, not " + describe(*made));
      frame.has_key = true;
      frame.key = made->kind == YamlNode::Kind::scalar ? made->text : std::string();
      frame.key_where = where(mark);
    } else {
      frame.has_key = false;
      if (frame.key.empty()) return;
      const auto [first, fresh] = frame.places.emplace(frame.key, frame.key_where);
      if (fresh) {
        frame.node->entries.push_back({frame.key, frame.key_where, made});
      } else {
        problem(fmt::format("{}: {}: duplicate key, first given at {}", frame.key_where, path_to(frame.key),
                            first->second));
      }
    }
  }
  /// The key path of a key of the innermost mapping.
  std::string path_to(const std::string& key) const {
    std::string path;
    for (std::size_t i = 0; i + 1 < frames_.size(); ++i) {
      if (frames_[i].has_key) path += frames_[i].key + ".";
    }
    return printable(path + key);
  }

  Source source_;
  std::vector<std::string>& problems_;
  std::vector<Frame> frames_;
  std::unordered_map<YAML::anchor_t, YamlPointer> anchors_;
  YamlPointer root_;
};

YamlPointer parse(const std::string& text, const Source& source, std::vector<std::string>& problems) {
  TreeBuilder builder(source, problems);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) {
      auto empty = std::make_shared<YamlNode>();
      empty->where = source.name;
      return empty;
    }
    TreeBuilder second(source, problems);
    if (parser.HandleNextDocument(second)) throw Stop{source.name + ": a second document; a config is one"};
    return builder.root();
  } catch (const Stop& stop) {
    problems.push_back(stop.problem);
  } catch (const YAML::Exception& e) {
    problems.push_back(fmt::format("{}: not YAML: {}", source.where(e.mark), printable(e.msg)));
  }
  return nullptr;
}

void set_where(const YamlPointer& node, const std::string& where) {
  node->where = where;
  for (const YamlPointer& item : node->items) set_where(item, where);
  for (YamlEntry& entry : node->entries) {
    entry.where = where;
    set_where(entry.value, where);
  }
}

}  // namespace

const YamlEntry* YamlNode::find(const std::string& key) const {
  for (const YamlEntry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::null:
      return "nothing";
    case YamlNode::Kind::sequence:
      return "a list";
    case YamlNode::Kind::mapping:
      return "a section";
    case YamlNode::Kind::scalar:
      break;
  }
  return node.quoted ? '"' + printable(node.text) + '"' : printable(node.text);
}

YamlPointer read_yaml(const std::string& text, const std::string& name, std::vector<std::string>& problems) {
  if (text.size() > max_bytes) {
    problems.push_back(fmt::format("{}: {} bytes: a config has at most {}", name, text.size(), max_bytes));
    return nullptr;
  }
  if (std::string problem = text_problem(text, name); !problem.empty()) {
    problems.push_back(std::move(problem));
    return nullptr;
  }
  YamlPointer root = parse(text, {name}, problems);
  if (!root) return nullptr;
  if (root->kind == YamlNode::Kind::null) root->kind = YamlNode::Kind::mapping;
  if (root->kind != YamlNode::Kind::mapping) {
    problems.push_back(fmt::format("{}: a config is sections of keys, not {}", root->where, describe(*root)));
    return nullptr;
  }
  return root;
}

YamlPointer read_yaml_value(const std::string& text, const std::string& override_text,
                            std::vector<std::string>& problems) {
  const std::string name = "command line";
  const std::string label = fmt::format("{}: {}", name, printable(override_text));
  if (text.size() > max_bytes || !text_problem(text, name).empty()) {
    problems.push_back(label + ": the value is not UTF-8 text of a sensible length");
    return nullptr;
  }
  std::vector<std::string> found;
  const YamlPointer root = parse(text, {label, false}, found);
  problems.insert(problems.end(), found.begin(), found.end());
  if (!root || !found.empty()) return nullptr;
  set_where(root, name);
  return root;
}

YamlPointer merge_yaml(const YamlPointer& base, const YamlPointer& over) {
  if (base->kind != YamlNode::Kind::mapping || over->kind != YamlNode::Kind::mapping) return over;
  auto merged = std::make_shared<YamlNode>(*base);
  merged->where = over->where;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < merged->entries.size(); ++i) index.emplace(merged->entries[i].key, i);
  for (const YamlEntry& entry : over->entries) {
    const auto [found, fresh] = index.emplace(entry.key, merged->entries.size());
    if (fresh) {
      merged->entries.push_back(entry);
    } else {
      YamlEntry& below = merged->entries[found->second];
      below = {entry.key, entry.where, merge_yaml(below.value, entry.value)};
    }
  }
  return merged;
}

}  // namespace hysparse
