// Run directories that cannot be written, checkpoints and exports that are damaged, lie or belong to another
// model.
#include <cstring>

#include <sys/stat.h>
#include <unistd.h>

#include "tests/launch/bad_input.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;
using Make = std::function<void(const std::string&)>;

/// A copy of run/ in the place of the case, changed by `change`, which gets the directory of its step 2.
Make run_with(const std::function<void(const std::string&)>& change, bool keep_step_1 = false) {
  return [=](const std::string& place) {
    copy_tree(fs::path(place).parent_path() / "run", place + "/run");
    const std::string checkpoints = place + "/run/checkpoints";
    if (!keep_step_1) fs::remove_all(checkpoints + "/step-000001");
    change(checkpoints + "/step-000002");
  };
}

/// A copy of export/, changed by `change`.
Make export_with(const std::function<void(const std::string&)>& change) {
  return [=](const std::string& place) {
    copy_tree(fs::path(place).parent_path() / "export", place + "/export");
    change(place + "/export");
  };
}

/// An edit of the header that keeps its length: the file is otherwise sound.
Make header_with(const std::string& from, const std::string& to) {
  return export_with([=](const std::string& directory) {
    edit(directory + "/model.safetensors", from, to);
    if (from.size() != to.size()) throw std::logic_error("the header's length changed");
  });
}

Make config_with(const std::string& from, const std::string& to) {
  return export_with([=](const std::string& directory) { edit(directory + "/config.json", from, to); });
}

Make header_length(std::uint64_t length) {
  return export_with([=](const std::string& directory) {
    std::string bytes = read_file(directory + "/model.safetensors");
    std::memcpy(bytes.data(), &length, sizeof length);
    write_file(directory + "/model.safetensors", bytes);
  });
}

Make in_the_way(const std::string& name, bool as_directory) {
  return [=](const std::string& place) {
    fs::create_directories(place + "/run");
    if (as_directory)
      fs::create_directory(place + "/run/" + name);
    else
      write_file(place + "/run/" + name, "");
  };
}

TEST_F(BadInputTest, RunDirectory) {
  std::vector<BadInput> cases = {
      {train({"run.dir=@/config.yaml"}), {"run.dir: @/config.yaml: cannot be made: Not a directory"}},
      {train({"run.dir=@/config.yaml/run"}), {"run.dir: @/config.yaml/run: cannot be made: Not a directory"}},
      {train({"run.dir=/proc/hysparse"}),
       {"run.dir: /proc/hysparse: cannot be made: No such file or directory"}},
      {train({"run.dir=/sys"}), {"run.dir: /sys: cannot be written to: ..."}},  // for root, too
      {train({}),
       {"run.dir: @/case/run/checkpoints: is in the way: not a directory"},
       in_the_way("checkpoints", false)},
      {train({}), {"run.dir: @/case/run/tb: is in the way: not a directory"}, in_the_way("tb", false)},
      {train({}),
       {"run.dir: @/case/run/config.yaml: is in the way: not a regular file"},
       in_the_way("config.yaml", true)},
      {train({}),
       {"run.dir: @/case/run/metrics.jsonl: is in the way: not a regular file"},
       in_the_way("metrics.jsonl", true)},
      {train({}),
       {"run.dir: @/case/run/log.txt: is in the way: not a regular file"},
       in_the_way("log.txt", true)},
  };
  if (::geteuid() != 0) {  // root may write anywhere
    cases.push_back({train({}),
                     {"run.dir: @/case/run: cannot be written to: Permission denied"},
                     [](const std::string& place) {
                       fs::create_directory(place + "/run");
                       ::chmod((place + "/run").c_str(), 0555);
                     }});
  }
  expect_refused(cases);
}

TEST_F(BadInputTest, CheckpointOfAnotherModel) {
  with_run();
  const auto resume = [](const std::vector<std::string>& overrides) {
    std::vector<std::string> words = {"train", "@/config.yaml", "train.steps=4"};
    words.insert(words.end(), overrides.begin(), overrides.end());
    return words;
  };
  const auto message = [](const std::string& what, const std::string& before) {
    return what + ": the checkpoint @/run/checkpoints/step-000002 was trained with " + before +
           "; another model needs another run.dir";
  };
  const std::string first = "@/run/checkpoints/step-000002: checkpoint of another model: tensor ";
  expect_refused({
      {resume({"model.hidden_size=64"}), {message("model.hidden_size: 64", "32")}},
      {resume({"model.sliding_window=16"}), {message("model.sliding_window: 16", "8")}},
      {resume({"model.vocab_size=384", "model.attention_sinks=false"}),
       {message("model.vocab_size: 384", "320"), message("model.attention_sinks: false", "true")}},
      {resume({"model.num_layers=9"}), {message("model.num_layers: 9", "5")}},
      {resume({"model.attention=hybrid_swa"}),
       {message("model.layer_types: layer 1: sliding_attention", "sparse_attention")}},
      {resume({"model.moe=null"}), {message("model.moe: null", "experts")}},
      {resume({"model.hidden_size=64", "--dry-run"}), {message("model.hidden_size: 64", "32")}},
      {train({"run.init_from=@/run", "model.hidden_size=64"}),
       {"run.init_from: " + first +
        "model.embed_tokens.weight is [320, 32], expected [320, 64] (and ... more tensors do not fit)"}},
      {train({"run.init_from=@/export", "model.hidden_size=64"}),
       {"run.init_from: @/export/model.safetensors: model.embed_tokens.weight has shape [320, 32], the model "
        "has "
        "[320, 64] (and ... more tensors do not fit)"}},
      {train({"run.init_from=@/export", "model.num_layers=9"}),
       {"run.init_from: @/export: no tensor model.layers.5.input_layernorm.weight [32], which the model has "
        "(and "
        "... more tensors do not fit)"}},
      {train({"run.init_from=@/none"}),
       {"run.init_from: @/none: no such directory; give an export, a step directory or a run directory"}},
  });
}

TEST_F(BadInputTest, DamagedCheckpoint) {
  with_run();
  const std::vector<std::string> resume = train({"train.steps=4"});
  const std::string step = "@/case/run/checkpoints/step-000002";
  const std::string none_left =
      "; no complete checkpoint is left in @/case/run/checkpoints: repair it, or remove it to begin anew";
  const auto shard = [](void (*damage)(const std::string&)) {
    return [=](const std::string& directory) { damage(directory + "/shard-00000.h5"); };
  };
  const auto manifest = [](void (*damage)(const std::string&)) {
    return [=](const std::string& directory) { damage(directory + "/manifest.json"); };
  };
  const auto remove = [](const std::string& path) { fs::remove_all(path); };
  const auto eval = [](const std::string& model) {
    return std::vector<std::string>{"eval", model, "--data", "@/valid.h5", "--seq-len", "8"};
  };
  const std::string flipped = step + "/shard-00000.h5: damaged: checksum ..., the manifest says ...";
  const std::string halved = step + "/shard-00000.h5: ... bytes, the manifest says ...: truncated or damaged";
  expect_refused({
      {resume, {flipped + none_left}, run_with(shard(flip_byte))},
      {eval("@/case/run"), {flipped}, run_with(shard(flip_byte))},
      {eval("@/case/run"),
       {flipped + "; @/case/run/checkpoints/step-000001 is the newest step beside it"},
       run_with(shard(flip_byte), true)},
      {resume, {halved + none_left}, run_with(shard(halve))},
      {eval("@/case/run"), {halved + none_left}, run_with(shard(halve))},
      {eval(step), {halved}, run_with(shard(halve))},
      {resume,
       {step + "/shard-00000.h5: No such file or directory, and the manifest lists it" + none_left},
       run_with(shard(remove))},
      {resume,
       {step + "/manifest.json: damaged: its checksum does not match its text" + none_left},
       run_with(manifest(flip_byte))},
      {resume,
       {step + "/manifest.json: no checksum at its end: truncated or damaged" + none_left},
       run_with(manifest(halve))},
      {resume,
       {step + "/manifest.json: cannot open: No such file or directory" + none_left},
       run_with(manifest(remove))},
      {resume, {step + "/manifest.json: cannot open: No such file or directory" + none_left}, run_with(remove)},
      {{"export", "@/case/run", "--output", "@/case/out"}, {flipped}, run_with(shard(flip_byte))},
      {{"generate", step, "--prompt", ""}, {flipped}, run_with(shard(flip_byte))},
  });
}

TEST_F(BadInputTest, DamagedExport) {
  with_run();
  const std::vector<std::string> eval = {"eval", "@/case/export", "--data", "@/valid.h5", "--seq-len", "8"};
  const std::vector<std::string> generate = {"generate", "@/case/export", "--prompt", "a"};
  const std::string file = "@/case/export/model.safetensors: ", config = "@/case/export/config.json: ";
  expect_refused({
      {eval,
       {file + "the header says it is 18446744073709551615 bytes long, at most 100000000 are allowed: not a "
               "safetensors file"},
       header_length(~std::uint64_t{0})},
      {generate,
       {file +
        "the header says it is 90000000 bytes long, the file ends after ...: truncated, or not a safetensors "
        "file"},
       header_length(90'000'000)},
      {eval,
       {file + "the header describes ... bytes of data, the file holds ... (truncated)"},
       export_with([](const std::string& directory) { halve(directory + "/model.safetensors"); })},
      {eval,
       {file + "tensor 'model.embed_tokens.weight': data_offsets [0, 40960] do not hold the 42240 bytes of F32 "
               "[320, 33]"},
       header_with("[320,32]", "[320,33]")},
      {eval,
       {file + "tensor 'model.embed_tokens.weight': data_offsets [0, 99960] do not hold the 40960 bytes of F32 "
               "[320, 32]"},
       header_with("[0,40960]", "[0,99960]")},
      {eval,
       {file + "tensor '...': data begins at 40900, 40960 is expected (tensors overlap)"},
       header_with("[40960,41088]", "[40900,41028]")},
      {generate,
       {file + "model.embed_tokens.weight has shape [32, 320], config.json calls for [320, 32]"},
       header_with("[320,32]", "[32,320]")},
      {eval,
       {"@/case/export: no tensor model.embed_tokens.weight [320, 32], which config.json calls for"},
       header_with("model.embed_tokens.weight", "model.embed_tokens.height")},
      {eval,
       {"@/case/export: holds neither model.safetensors nor model.safetensors.index.json"},
       export_with([](const std::string& directory) { fs::remove(directory + "/model.safetensors"); })},
      {eval,
       {"@/case/export: an export without its config.json"},
       export_with([](const std::string& directory) { fs::remove(directory + "/config.json"); })},
      {eval, {config + "not valid JSON: ..."}, export_with([](const std::string& directory) {
         write_file(directory + "/config.json", "{\"a");
       })},
      {eval, {config + "not a JSON object"}, export_with([](const std::string& directory) {
         write_file(directory + "/config.json", "[]");
       })},
      {eval,
       {config + "num_hidden_layers: 0.5: must be an integer"},
       config_with("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 0.5")},
      {eval,
       {config + "layer_types: 5 entries for num_hidden_layers 6"},
       config_with("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 6")},
      {eval, {config + "head_dim: missing"}, config_with("\"head_dim\"", "\"head_dims\"")},
      {eval,
       {config + "hidden_size: \"wide\": must be an integer"},
       config_with("\"hidden_size\": 32", "\"hidden_size\": \"wide\"")},
      {eval,
       {config + "head_dim: 4611686018427387904: must be an integer of at most 2147483647"},
       config_with("\"head_dim\": 8", "\"head_dim\": 4611686018427387904")},
      {eval,
       {config + "num_experts: -8: must be at least 1"},
       config_with("\"num_experts\": 8", "\"num_experts\": -8")},
      {eval,
       {"@/case/export: holds ... tensors, fewer than the 1000000000 experts that config.json calls for"},
       config_with("\"num_experts\": 8", "\"num_experts\": 1000000000")},
      {generate,
       {file +
        "model.embed_tokens.weight has shape [320, 32], config.json calls for [320, 64] (and ... more tensors "
        "do not fit)"},
       config_with("\"hidden_size\": 32", "\"hidden_size\": 64")},
  });
}

TEST_F(BadInputTest, ModelPaths) {
  with_run();
  const auto generate = [](const std::string& model) {
    return std::vector<std::string>{"generate", model, "--prompt", "a"};
  };
  const auto save = [](const std::string& model, const std::string& output) {
    return std::vector<std::string>{"export", model, "--output", output};
  };
  expect_refused({
      {generate("@/none"), {"@/none: no such directory; give an export, a step directory or a run directory"}},
      {generate("@/valid.h5"),
       {"@/valid.h5: not a directory; give an export, a step directory or a run directory"}},
      {{"eval", "@/text", "--data", "@/valid.h5", "--seq-len", "8"},
       {"@/text: neither a run directory with a checkpoint nor a step directory"}},
      {{"checkpoint", "verify", "@/none"}, {"@/none: no such directory"}},
      {{"checkpoint", "info", "@/text"},
       {"@/text: neither a run directory with a checkpoint nor a step directory"}},
      {save("@/none", "@/case/out"),
       {"@/none: no such directory; give an export, a step directory or a run directory"}},
      {save("@/run", "@/valid.h5"), {"--output: @/valid.h5: cannot be made: Not a directory"}},
      {save("@/run", "@/valid.h5/out"), {"--output: @/valid.h5/out: cannot be made: Not a directory"}},
      {save("@/run", "/sys"), {"--output: /sys: cannot be written to: ..."}},
      {save("@/run", "@/run"), {"--output: @/run: holds checkpoints; an export needs a directory of its own"}},
      {save("@/run", "@/run/checkpoints/step-000001"),
       {"--output: @/run/checkpoints/step-000001: holds checkpoints; an export needs a directory of its own"}},
      {save("@/export", "@/export"), {"--output: @/export: is the model to export"}},
      {save("@/run", ""), {"--output: give the name of a directory"}},
  });
}

}  // namespace
}  // namespace hysparse::testing
