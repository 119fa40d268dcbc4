// export and import as a user runs them.
#include "tests/launch/program.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "checkpoint/safetensors.h"

namespace hysparse::testing {
namespace {

namespace fs = std::filesystem;

class ExportProgram : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = std::make_unique<WorkDirectory>();
    prepare_data(*work_, 20000);
    write_small_config(*work_);
    done(run_hysparse(0, {"train", *work_ / "config.yaml", "train.steps=2", "train.eval_every=0"}));
    done(run_hysparse(0, {"export", *work_ / "run", "--output", *work_ / "export"}));
  }
  static void TearDownTestSuite() { work_.reset(); }
  static void done(const ProgramResult& result) { EXPECT_EQ(result.status, 0) << result.errors; }
  static std::string at(const std::string& name) { return *work_ / name; }

  static std::string text_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  /// Names, shapes, dtypes and bits.
  static void expect_same_tensors(const std::string& a, const std::string& b) {
    const SafetensorsReader first(a), second(b);
    ASSERT_EQ(first.entries().size(), second.entries().size());
    for (const SafetensorsEntry& e : first.entries()) {
      const SafetensorsEntry* other = second.find(e.name);
      ASSERT_NE(other, nullptr) << e.name;
      ASSERT_EQ(e.dtype, other->dtype);
      ASSERT_EQ(first.read(e.name, DType::f32).to_vector<float>(),
                second.read(e.name, DType::f32).to_vector<float>())
          << e.name;
    }
  }

  static std::unique_ptr<WorkDirectory> work_;
};
std::unique_ptr<WorkDirectory> ExportProgram::work_;

TEST_F(ExportProgram, HoldsWhatTransformersNeeds) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(at("export"))) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names,
            (std::vector<std::string>{"config.json", "configuration_hysparse.py", "generation_config.json",
                                      "model.safetensors", "modeling_hysparse.py", "tokenizer.json",
                                      "tokenizer_config.json"}));
  EXPECT_FALSE(fs::exists(at("export.tmp")));
}

TEST_F(ExportProgram, RanksShareTheFiles) {
  done(run_hysparse(3, {"export", at("run"), "--output", at("many"), "--shard-bytes", "20000"}));
  expect_same_tensors(at("export"), at("many"));
  EXPECT_TRUE(fs::exists(at("many") + "/model-00001-of-00022.safetensors") ||
              fs::exists(at("many") + "/model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(at("many") + "/model.safetensors"));
  // An export takes the place of another as a whole.
  done(run_hysparse(2, {"export", at("run"), "--output", at("many")}));
  EXPECT_EQ(text_of(at("many") + "/model.safetensors"), text_of(at("export") + "/model.safetensors"));
  EXPECT_FALSE(fs::exists(at("many") + "/model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(at("many.tmp")));
}

TEST_F(ExportProgram, LeavesOtherFilesAlone) {
  fs::create_directory(at("own"));
  std::ofstream(at("own") + "/notes.txt") << "mine";
  const ProgramResult result = run_hysparse(0, {"export", at("run"), "--output", at("own")});
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.errors.find("holds notes.txt, which is of no export"), std::string::npos) << result.errors;
  EXPECT_TRUE(fs::exists(at("own") + "/notes.txt"));
}

TEST_F(ExportProgram, ImportOfAnExportIsTheSameModel) {
  done(run_hysparse(2, {"import", at("export"), "--config", at("config.yaml"), "--output", at("imported")}));
  done(run_hysparse(0, {"export", at("imported"), "--output", at("again")}));
  expect_same_tensors(at("export"), at("again"));
  EXPECT_EQ(text_of(at("export") + "/config.json"), text_of(at("again") + "/config.json"));
  // Its run goes on from step 0.
  const ProgramResult train =
      run_hysparse(2, {"train", at("config.yaml"), "run.dir=" + at("imported"), "train.steps=2"});
  done(train);
  EXPECT_TRUE(fs::exists(at("imported") + "/checkpoints/step-000002"));
  const ProgramResult twice =
      run_hysparse(0, {"import", at("export"), "--config", at("config.yaml"), "--output", at("imported")});
  EXPECT_EQ(twice.status, 2);
  EXPECT_NE(twice.errors.find("holds checkpoints"), std::string::npos) << twice.errors;
}

TEST_F(ExportProgram, FullAttentionBecomesHySparse) {
  const std::string full = "model.attention=full";
  done(run_hysparse(0, {"train", at("config.yaml"), full, "run.dir=" + at("full"), "train.steps=2",
                        "model.moe.bias_update_rate=0.01"}));
  done(run_hysparse(0, {"export", at("full"), "--output", at("glm")}));
  EXPECT_NE(text_of(at("glm") + "/config.json").find("Glm4MoeForCausalLM"), std::string::npos);
  EXPECT_FALSE(fs::exists(at("glm") + "/modeling_hysparse.py"));
  done(run_hysparse(0, {"import", at("glm"), "--config", at("config.yaml"), "--output", at("sparse")}));
  done(run_hysparse(0, {"train", at("config.yaml"), "run.dir=" + at("sparse"), "train.steps=1"}));
  // As the weights of a fresh run, too.
  done(run_hysparse(0, {"train", at("config.yaml"), "run.dir=" + at("fresh"), "run.init_from=" + at("sparse"),
                        "train.steps=1"}));
}

/// An index or a config that names what it should not: refused, nothing outside the directory is read.
TEST_F(ExportProgram, HostileExports) {
  const std::string hostile = at("hostile");
  const auto refused = [&](const std::string& file, const std::string& text, const std::string& reason) {
    fs::remove_all(hostile);
    fs::copy(at("export"), hostile);
    if (file == "model.safetensors.index.json")
      fs::rename(hostile + "/model.safetensors", hostile + "/a.safetensors");
    std::ofstream(hostile + "/" + file, std::ios::binary) << text;
    for (const char* command : {"export", "import"}) {
      std::vector<std::string> arguments{command, hostile, "--output", at("out")};
      if (command == std::string("import")) arguments.insert(arguments.end(), {"--config", at("config.yaml")});
      const ProgramResult result = run_hysparse(0, arguments);
      EXPECT_EQ(result.status, 2) << command << " " << text;
      EXPECT_NE(result.errors.find(reason), std::string::npos) << result.errors;
      EXPECT_FALSE(fs::exists(at("out")));
    }
  };
  const auto index = [](const std::string& file) {
    return R"({"metadata": {"total_size": 8}, "weight_map": {"model.norm.weight": ")" + file + R"("}})";
  };
  for (const char* file : {"../export/model.safetensors", "/etc/passwd", "..", "sub/../a.safetensors"})
    refused("model.safetensors.index.json", index(file), "plain name");
  refused("model.safetensors.index.json", index("a.safetensors"), "fewer than the 8 experts");
  refused("model.safetensors.index.json", index("none.safetensors"), "none.safetensors");
  const std::string config = text_of(at("export") + "/config.json");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = config;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  refused("config.json", changed("\"hysparse\"", "\"llama\""), "model_type: \"llama\": must be hysparse");
  refused("config.json", changed("\"hysparse\"", "\"qwen3\""), "layer_types: must be full_attention");
  refused("config.json", changed("\"vocab_size\": 320", "\"vocab_size\": 640"),
          "has shape [320, 32], config.json calls for [640, 32]");
  refused("config.json", changed("\"num_experts\": 8", "\"num_experts\": 2000000000"), "fewer than");
  refused("config.json", std::string(1000, '['), "hostile/config.json: ");
}

}  // namespace
}  // namespace hysparse::testing
