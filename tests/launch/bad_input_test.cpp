// The user's mistakes in configs and data, at one rank and at several.
#include "tests/launch/bad_input.h"

#include <algorithm>

#include "core/hdf5.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;

/// A token file of these ids, one document, whose header says `vocab_size`, and nothing of the tokenizer unless
/// its hash is given.
void write_tokens(const std::string& path, const std::vector<std::uint16_t>& ids, std::int64_t vocab_size,
                  std::string_view tokenizer_hash = "") {
  Hdf5File file = Hdf5File::create(path);
  file.set_attribute("", "tokenizer", std::string_view("byte"));
  file.set_attribute("", "tokenizer_hash", tokenizer_hash);
  file.set_attribute("", "vocab_size", vocab_size);
  file.set_attribute("", "eos_id", std::int64_t{0});
  file.set_attribute("", "command", std::string_view("test"));
  const std::int64_t zero = 0, one = 1, count = static_cast<std::int64_t>(ids.size());
  const std::uint64_t end = ids.size();
  file.create_dataset("tokens", Hdf5Type::u16, std::span(&count, 1));
  file.create_dataset("doc_ends", Hdf5Type::u64, std::span(count > 0 ? &one : &zero, 1));
  if (count > 0) {
    file.write_slab("tokens", Hdf5Type::u16, std::span(&zero, 1), std::span(&count, 1), ids.data());
    file.write_slab("doc_ends", Hdf5Type::u64, std::span(&zero, 1), std::span(&one, 1), &end);
  }
  file.close_and_sync();
}

TEST_F(BadInputTest, ConfigKeysAndValues) {
  const std::vector<std::string> bad = {"train", "@/case/bad.yaml"};
  const std::string good = "run: {dir: r}\ndata: {train: d}\n";
  expect_refused({
      {{"train", "@/none.yaml"}, {"@/none.yaml: cannot open: No such file or directory"}},
      {{"train", "@/text"}, {"@/text: not a regular file"}},
      {{"train", "@/train.h5"}, {"@/train.h5:1: not UTF-8 text (byte 0x89)"}},
      {bad,
       {"@/case/bad.yaml:4: not YAML: end of sequence flow not found"},
       with_file("bad.yaml", good + "model: [1\n")},
      {bad,
       {"@/case/bad.yaml:4: model.num_head: unknown key; did you mean model.num_heads?"},
       with_file("bad.yaml", good + "model:\n  num_head: 4\n")},
      {bad,
       {"@/case/bad.yaml:5: model.num_heads: duplicate key, first given at @/case/bad.yaml:4"},
       with_file("bad.yaml", good + "model:\n  num_heads: 4\n  num_heads: 4\n")},
      {bad,
       {"@/case/bad.yaml: run.dir: required key is missing; must be text"},
       with_file("bad.yaml", "data: {train: d}\n")},
      {bad,
       {"@/case/bad.yaml:4: model.num_head: unknown key; did you mean model.num_heads?",
        "@/case/bad.yaml:6: train.steps: many: must be a positive integer"},
       with_file("bad.yaml", good + "model:\n  num_head: 4\ntrain:\n  steps: many\n")},
      {train({"train.steps=many"}), {"command line: train.steps: many: must be a positive integer"}},
      {train({"model.hidden_size=-64"}), {"command line: model.hidden_size: -64: must be a positive integer"}},
      {train({"train.seq_len=0"}), {"command line: train.seq_len: 0: must be a positive integer"}},
      {train({"optim.lr=.nan"}), {"command line: optim.lr: .nan: must be a number of at least 0"}},
      {train({"run.dir="}), {"command line: run.dir: nothing: must be text"}},
      {train({"steps"}), {"command line: steps: an override is key.path=value"}},
  });
}

TEST_F(BadInputTest, ConfigRules) {
  expect_refused({
      {train({"model.num_heads=3"}),
       {"command line: model.num_heads: 3: must be a multiple of model.num_kv_heads (2)"}},
      {train({"model.sparse_topk_tokens=20"}),
       {"command line: model.sparse_topk_tokens: 20: must be a multiple of model.sparse_block_size (8); "
        "nearest: "
        "16 or 24"}},
      {train({"model.hybrid_ratio=\"1:7\""}),
       {"command line: model.hybrid_ratio: 1:7: needs at least 9 layers (a full layer, 7 followers, a closing "
        "full "
        "layer), model.num_layers is 5"}},
      {train({"model.moe.top_k=9"}),
       {"command line: model.moe.top_k: 9: must be from 1 to model.moe.num_experts (8)"}},
      {train({"train.global_batch_size=3", "train.micro_batch_size=2"}),
       {"command line: train.global_batch_size: 3: must be a multiple of train.micro_batch_size 2 * dp 1 = 2; "
        "nearest: 2 or 4"}},
      {train({"parallel.ep=2"}),
       {"command line: world size 1 is not a multiple of parallel.ep * parallel.etp * parallel.pp = 2 * 1 * 1 "
        "= 2 (no whole number is left for edp): the nearest world that works is 2; parallel.ep 1 fits 1 "
        "ranks"}},
      {train({"parallel.tp=2"}),
       {"command line: world size 1 is not a multiple of parallel.tp * parallel.cp * parallel.pp = 2 * 1 * 1 "
        "= 2 (no whole number is left for dp): the nearest world that works is 2; parallel.tp 1 fits 1 ranks"}},
      {train({"parallel.pp=2"}),
       {"command line: world size 1 is not a multiple of parallel.tp * parallel.cp * parallel.pp = 1 * 1 * 2 "
        "= 2 (no whole number is left for dp): the nearest world that works is 2; parallel.pp 1 fits 1 ranks"}},
      {train({"parallel.cp=2"}),
       {"command line: parallel.cp: 2: context parallelism is not there yet; must be 1"}},
      {train({"train.device=cuda"}),
       {"command line: train.device: cuda: this build has no GPU backend; must be cpu or auto"}},
      {train({"train.dtype=bf16"}),
       {"command line: train.dtype: bf16: bf16 is for GPUs; on the CPU it must be fp32, fp64 or auto"}},
      {train({"optim.name=muon"}), {"command line: optim.name: muon: Muon is not there yet; must be adamw"}},
      {train({}),
       {"HYSPARSE_NUM_THREADS=none: must be an integer from 1 to 4096"},
       nullptr,
       0,
       {"HYSPARSE_NUM_THREADS=none"}},
  });
}

TEST_F(BadInputTest, TrainingData) {
  expect_refused({
      {train({"model.vocab_size=256"}),
       {"model.vocab_size: 256: smaller than the vocabulary of data.train (@/train.h5: 320 ids, tokenizer "
        "byte)"}},
      {train({"data.train=@/none.h5"}), {"data.train: @/none.h5: cannot read it: No such file or directory"}},
      {train({"data.train=@/text"}), {"data.train: @/text: not a regular file"}},
      {train({"data.train=@/config.yaml"}),
       {"data.train: @/config.yaml: not a token dataset: neither HDF5, ..."}},
      {train({"data.train=@/case/empty.h5"}),
       {"data.train: @/case/empty.h5: empty file, not an HDF5 file"},
       with_file("empty.h5", "")},
      {train({"data.train=@/case/half.h5"}),
       {"data.train: @/case/half.h5: truncated or damaged HDF5 file: ..."},
       [](const std::string& place) {
         fs::copy(directory() / "train.h5", place + "/half.h5");
         halve(place + "/half.h5");
       }},
      {train({"data.train=@/case/foreign.h5"}),
       {"data.train: @/case/foreign.h5: not a token file: it has no dataset tokens (hysparse prepare makes "
        "one)"},
       [](const std::string& place) { Hdf5File::create(place + "/foreign.h5").close_and_sync(); }},
      {train({"data.train=@/case/none.h5"}),
       {"data.train: @/case/none.h5: has no tokens"},
       [](const std::string& place) { write_tokens(place + "/none.h5", {}, 320); }},
      {train({"data.valid=@/none.h5"}), {"data.valid: @/none.h5: cannot read it: No such file or directory"}},
      {train({"data.valid=@/case/bad.h5"}),
       {"data.valid: @/case/bad.h5: token 99 is 320, but vocab_size is 320"},
       [](const std::string& place) {
         std::vector<std::uint16_t> ids(100, 1);
         ids.back() = 320;
         write_tokens(place + "/bad.h5", ids, 320);
       }},
      {train({"train.seq_len=1000000"}),
       {"data.train: @/train.h5: holds ... tokens, but seq_len 1000000 needs at least 1000001 (seq_len + 1)"}},
      {train({"train.seq_len=8000"}),
       {"data.valid: @/valid.h5: holds ... tokens, but seq_len 8000 needs at least 8001 (seq_len + 1)"}},
      {train({"data.train=[{path: @/train.h5, weight: 1}, {path: @/valid.h5, weight: 1e-9}]"}),
       {"data.train: weight 1e-09: must be at least 1e-07 of the sum of the weights (1.000000001)"}},
      {train({"data.train=[{path: @/train.h5, weight: 1}, {path: @/train.h5, weight: 2}]"}),
       {"data.train: @/train.h5: given twice, and would give each sample twice: give it once, with the sum of "
        "the "
        "weights"}},
      {train({"data.train=[{path: @/train.h5, weight: 1}, {path: @/case/short.h5, weight: 1}]"}),
       {"data.train: @/case/short.h5: holds 3 tokens, but seq_len 32 needs at least 33 (seq_len + 1)"},
       [](const std::string& place) {
         write_tokens(place + "/short.h5", {1, 2, 3}, 320);
       }},
      {train({"data.train=[{path: @/train.h5, weight: 1}, {path: @/case/other.h5, weight: 1}]"}),
       {"data.train: @/case/other.h5: its vocabulary is 256 ids, that of @/train.h5 is 320 ids: all data of a "
        "run must have the same"},
       [](const std::string& place) {
         write_tokens(place + "/other.h5", std::vector<std::uint16_t>(2000, 1), 256);
       }},
      {train({"data.valid=@/case/other.h5"}),
       {"data.valid: @/case/other.h5: its tokenizer is byte (77), that of @/train.h5 is byte (...): all data "
        "of a "
        "run must have the same"},
       [](const std::string& place) {
         write_tokens(place + "/other.h5", std::vector<std::uint16_t>(2000, 1), 320, "77");
       }},
      {train({"--dry-run", "data.train=@/none.h5"}),
       {"data.train: @/none.h5: cannot read it: No such file or directory"}},
  });
}

TEST_F(BadInputTest, Prepare) {
  const auto prepare = [](const std::string& input, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"prepare", "--input", input, "--tokenizer", "byte", "--output"};
    if (more.empty() || more[0].starts_with("-")) words.push_back("@/case/out.h5");
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  expect_refused({
      {prepare("@/none"), {"@/none: No such file or directory"}},
      {prepare("@/case/in"),
       {"--input: no text in 0 files of @/case/in"},
       [](const std::string& place) { fs::create_directory(place + "/in"); }},
      {prepare("@/case/in"), {"--input: no text in 1 files of @/case/in"}, with_file("in/empty.txt", "")},
      {prepare("@/case/a.jsonl"),
       {"@/case/a.jsonl:2: the object has no key \"text\" (--text-key); --skip-bad-lines leaves such lines "
        "out"},
       with_file("a.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n")},
      {prepare("@/case/a.jsonl"), {"@/case/a.jsonl:1: bad JSON: ..."}, with_file("a.jsonl", "{\"text\": a}\n")},
      {prepare("@/text", {"@/case/none/out.h5"}),
       {"@/case/none/out.h5: cannot write in directory @/case/none: No such file or directory"}},
      {prepare("@/text", {"/sys/out.h5"}), {"/sys/out.h5: cannot write in directory /sys: ..."}},
      {prepare("@/text", {"@/text"}), {"@/text: is a directory, expected the name of a file to write"}},
      {prepare("@/text", {"@/text/000.txt"}), {"@/text/000.txt: is an output and an input"}},
      {prepare("@/text", {"--valid-output", "@/case/none/valid.h5"}),
       {"@/case/none/valid.h5: cannot write in directory @/case/none: No such file or directory"}},
      {prepare("@/text", {"--valid-output", "@/case/out.h5"}),
       {"--valid-output: @/case/out.h5 is also --output"}},
      {prepare("@/text/000.txt", {"--valid-output", "@/case/valid.h5"}),
       {"@/case/valid.h5: would be empty: --valid-fraction 0.05 of 1 documents leaves it none; give more "
        "documents "
        "or another fraction"}},
      {prepare("@/text", {"--valid-fraction", "0.1"}), {"prepare: --valid-fraction needs --valid-output"}},
      {prepare("@/text", {"--workers", "0"}), {"prepare: --workers: 0: must be a positive integer"}},
      {prepare("@/text", {"--workers", "2000"}),
       {"prepare: --workers: 2000: must be a positive integer (at most 1024)"}},
      {{"prepare", "--input", "@/text", "--tokenizer", "bpe.json", "--output", "@/case/out.h5"},
       {"tokenizer bpe.json: no file bpe.json; available: byte, ..."}},
      {{"prepare", "--input"}, {"prepare: --input needs a value"}},
      {{"prepare"},
       {"prepare: --input FILE... is missing", "prepare: --tokenizer byte|tokenizer.json is missing",
        "prepare: --output DATA.h5 is missing"}},
  });
}

/// The message comes once, and no rank stays behind.
TEST_F(BadInputTest, SeveralRanks) {
  with_run();
  expect_refused({
      {train({"parallel.ep=2", "train.global_batch_size=6"}),
       {"command line: world size 3 is not a multiple of parallel.ep * parallel.etp * parallel.pp = 2 * 1 * 1 "
        "= 2 (no whole number is left for edp): the nearest worlds that work are 2 and 4; parallel.ep 1 or 3 "
        "fits 3 ranks"},
       nullptr,
       3},
      {train({"model.num_head=3", "train.steps=-1"}),
       {"command line: model.num_head: unknown key; did you mean model.num_heads?",
        "command line: train.steps: -1: must be a positive integer"},
       nullptr,
       4},
      {train({"parallel.ep=2", "model.vocab_size=256"}),
       {"model.vocab_size: 256: smaller than the vocabulary of data.train (@/train.h5: 320 ids, tokenizer "
        "byte)"},
       nullptr,
       4},
      {train({"parallel.ep=4", "data.train=@/none.h5"}),
       {"data.train: @/none.h5: cannot read it: No such file or directory"},
       nullptr,
       4},
      {train({"run.dir=@/config.yaml"}),
       {"run.dir: @/config.yaml: cannot be made: Not a directory"},
       nullptr,
       4},
      {train({"run.dir=@/run", "train.steps=4", "model.hidden_size=64"}),
       {"model.hidden_size: 64: the checkpoint @/run/checkpoints/step-000002 was trained with 32; another "
        "model "
        "needs another run.dir"},
       nullptr,
       4},
      {train({"train.steps=4"}),
       {"@/case/run/checkpoints/step-000002/shard-00000.h5: damaged: checksum ..., the manifest says ...; no "
        "complete "
        "checkpoint is left in @/case/run/checkpoints: repair it, or remove it to begin anew"},
       [](const std::string& place) {
         copy_tree(directory() / "run", place + "/run");
         fs::remove_all(place + "/run/checkpoints/step-000001");
         flip_byte(place + "/run/checkpoints/step-000002/shard-00000.h5");
       },
       4},
      {{"eval", "@/export", "--data", "@/valid.h5", "--seq-len", "8"},
       {"eval: runs on one rank, mpirun started 4; leave mpirun out"},
       nullptr,
       4},
      {{"prepare", "--input", "@/text", "--tokenizer", "byte", "--output", "@/case/none/out.h5"},
       {"@/case/none/out.h5: cannot write in directory @/case/none: No such file or directory"},
       nullptr,
       4},
      {train({}),
       {"HYSPARSE_NUM_THREADS=none: must be an integer from 1 to 4096"},
       nullptr,
       4,
       {"HYSPARSE_NUM_THREADS=none"}},
  });
}

/// What only training finds: by then the run directory is there, so files may be new.
TEST_F(BadInputTest, IdsBeyondTheFilesVocabulary) {
  write_tokens(directory() / "bad.h5", std::vector<std::uint16_t>(2000, 320), 320);
  const ProgramResult result =
      run_hysparse(4, {"train", directory() / "config.yaml", "run.dir=" + directory() / "bad",
                       "data.train=" + directory() / "bad.h5"});
  EXPECT_EQ(result.status, 2);
  EXPECT_TRUE(result.errors.starts_with("hysparse: error: data.train: " + directory() / "bad.h5" + ": token "))
      << result.errors;
  EXPECT_TRUE(result.errors.ends_with(" is 320, but vocab_size is 320\n")) << result.errors;
  EXPECT_EQ(std::count(result.errors.begin(), result.errors.end(), '\n'), 1) << result.errors;
}

}  // namespace
}  // namespace hysparse::testing
