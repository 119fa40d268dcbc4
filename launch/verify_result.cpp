#include "launch/verify_result.h"

#include <fstream>
#include <limits>

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "core/error.h"

namespace hysparse {
namespace {

using Json = nlohmann::json;

std::string json_path(const std::string& directory) {
  return directory + "/result.json";
}
std::string gradients_path(const std::string& directory) {
  return directory + "/gradients.safetensors";
}

/// JSON has no NaN: it becomes null there.
double number(const Json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

Json to_json(const VerifyResult& result) {
  Json json{{"steps", Json::array()}, {"traffic", Json::object()}, {"parameters", Json::object()}};
  for (const VerifyStep& step : result.steps)
    json["steps"].push_back({{"loss", step.loss}, {"grad_norm", step.grad_norm}, {"load", step.load}});
  for (const auto& [group, operations] : result.traffic) {
    for (const auto& [operation, t] : operations)
      json["traffic"][group][operation] = {{"calls", t.calls}, {"bytes", t.bytes}};
  }
  json["flips"] = {{"choices", result.flips.choices},
                   {"flips", result.flips.flips},
                   {"largest_margin", result.flips.largest_margin}};
  for (const VerifyGradient& g : result.gradients)
    json["parameters"][g.name] = {{"owned", g.owned}, {"copies", g.copies}};
  return json;
}

VerifyResult from_json(const Json& json) {
  VerifyResult result;
  for (const Json& step : json.at("steps"))
    result.steps.push_back({number(step.at("loss")), number(step.at("grad_norm")), step.at("load")});
  const Json& flips = json.at("flips");
  result.flips = {flips.at("choices"), flips.at("flips"), number(flips.at("largest_margin"))};
  for (const auto& [group, operations] : json.at("traffic").items()) {
    for (const auto& [operation, t] : operations.items())
      result.traffic[group][operation] = {t.at("calls"), t.at("bytes")};
  }
  return result;
}

}  // namespace

void write_result(const std::string& directory, const VerifyResult& result) {
  std::vector<SafetensorsTensor> tensors;
  for (const VerifyGradient& g : result.gradients)
    tensors.push_back({g.name, g.value.dtype(), g.value.shape()});
  SafetensorsWriter writer = SafetensorsWriter::to_file(gradients_path(directory), tensors);
  for (const VerifyGradient& g : result.gradients) writer.write(g.name, g.value);
  writer.finish();
  std::ofstream out(json_path(directory));
  out << to_json(result).dump() << "\n";
  out.close();
  if (!out) throw_failure("{}: cannot be written", json_path(directory));
}

VerifyResult read_result(const std::string& directory) {
  try {
    std::ifstream in(json_path(directory));
    const Json json = Json::parse(in);
    VerifyResult result = from_json(json);
    const SafetensorsReader reader(gradients_path(directory));
    for (const SafetensorsEntry& e : reader.entries()) {
      const Json& parameter = json.at("parameters").at(e.name);
      const DType dtype = e.dtype == StoredDType::f64 ? DType::f64 : DType::f32;
      result.gradients.push_back(
          {e.name, reader.read(e.name, dtype), parameter.at("owned"), number(parameter.at("copies"))});
    }
    return result;
  } catch (const std::exception& e) {
    throw_failure("{}: no result of a layout: {}", directory, e.what());
  }
}

}  // namespace hysparse
