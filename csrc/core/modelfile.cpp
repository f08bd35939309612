// SPDX-License-Identifier: Apache-2.0
#include "core/modelfile.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "core/filekind.h"
#include "core/graph.h"
#include "core/json.h"
#include "core/limits.h"
#include "core/plan_json.h"
#include "core/status.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "model files are little-endian and so must be the machine"
#endif

namespace fastsr {

namespace {

constexpr const char* kFormat = "1";
constexpr const char* kKeys[] = {"fastsr", "name",    "arch",   "config", "scale", "domain",
                                 "plan",   "licence", "recipe", "psnr",   "golden"};
constexpr const char* kJsonKeys[] = {"config", "recipe", "psnr", "golden"};
constexpr int64_t kSizeBytes = 8;  // the file begins with the size of its header
constexpr size_t kAlignment = 64;

// What a tensor's entry in the header says.
struct Entry {
  std::string name;
  bool half;  // F16; else F32
  std::vector<int64_t> shape;
  int64_t count;       // numbers
  int64_t begin, end;  // bytes, counted from the end of the header
};

struct Header {
  Json json;
  int64_t end;  // where the tensors begin
};

Header read_header(const Bytes& bytes) {
  if (bytes.size == 0) fail(Status::kBadModel, "the file is empty (0 bytes)");
  char first[512];
  const size_t got = static_cast<size_t>(std::min<int64_t>(bytes.size, sizeof first));
  bytes.read(0, first, got);
  uint64_t size = 0;
  std::memcpy(&size, first, std::min<size_t>(got, kSizeBytes));
  const bool brace = got > kSizeBytes && first[kSizeBytes] == '{';
  if (!brace || size > static_cast<uint64_t>(limits::kHeaderBytes))
    if (const char* kind = guess_kind({first, got})) fail(Status::kBadModel, "not a model file: this is ", kind);
  if (got < static_cast<size_t>(kSizeBytes))
    fail(Status::kBadModel, bytes.size, " bytes is too short for a model file");
  if (size > static_cast<uint64_t>(limits::kHeaderBytes)) {
    if (brace && size <= static_cast<uint64_t>(limits::kFileBytes))
      fail(Status::kBadModel, "the header claims ", size, " bytes, the limit is ", limits::kHeaderBytes);
    fail(Status::kBadModel, "not a model file: it does not begin as .safetensors do");
  }
  if (bytes.size > limits::kFileBytes)
    fail(Status::kBadModel, bytes.size, " bytes, the limit for a model file is ", limits::kFileBytes);
  if (static_cast<int64_t>(size) > bytes.size - kSizeBytes)
    fail(Status::kBadModel, "the header claims ", size, " bytes; the file has ", bytes.size,
         ": it was cut, or is no model file");
  std::string text(static_cast<size_t>(size), '\0');
  bytes.read(kSizeBytes, text.data(), text.size());
  return {parse_json(text, "the header"), kSizeBytes + static_cast<int64_t>(size)};
}

// Takes the metadata out of the header: all keys there, all values text, JSON where JSON is due.
Metadata take_metadata(Json& header) {
  const auto found = header.find("__metadata__");
  const bool ours =
      found != header.end() && found->is_object() &&
      std::all_of(std::begin(kKeys), std::end(kKeys), [&](const char* key) { return found->contains(key); });
  if (!ours) fail(Status::kBadModel, "this is not a fastsr model file: it is a .safetensors without our metadata");
  Metadata metadata;
  for (const auto& [key, value] : found->items()) {
    if (!value.is_string()) fail(Status::kBadModel, "this is not a fastsr model file: metadata '", key, "' is no text");
    metadata[key] = value.get<std::string>();
  }
  header.erase(found);
  if (metadata["fastsr"] != kFormat)
    fail(Status::kBadModel, "format '", metadata["fastsr"], "' is not known to this fastsr ('", kFormat,
         "' is): update fastsr");
  const std::string& scale = metadata["scale"];
  if (scale.empty() || scale.size() > 4 || scale.find_first_not_of("0123456789") != std::string::npos)
    fail(Status::kBadModel, "metadata 'scale' is '", scale, "', expected a whole number");
  for (const char* key : kJsonKeys) parse_json(metadata[key], std::string("metadata '") + key + "'");
  return metadata;
}

// A list of integers from 0 on, of at most `most`; false where `value` is none.
bool take_numbers(const Json& value, int64_t most, std::vector<int64_t>& numbers) {
  if (!value.is_array() || static_cast<int64_t>(value.size()) > most) return false;
  for (const Json& item : value) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0) return false;
    numbers.push_back(item.get<int64_t>());
  }
  return true;
}

Entry entry_of(const std::string& name, const Json& value, int64_t available) {
  if (!has_keys(value, {"dtype", "shape", "data_offsets"}) || !value["dtype"].is_string())
    fail(Status::kBadModel, "tensor '", name, "' is malformed");
  Entry entry;
  const auto dtype = value["dtype"].get<std::string>();
  if (dtype != "F32" && dtype != "F16")
    fail(Status::kBadModel, "tensor '", name, "' has dtype '", dtype, "', expected F32 or F16");
  entry.name = name;
  entry.half = dtype == "F16";
  std::vector<int64_t> offsets;
  if (!take_numbers(value["shape"], limits::kRank, entry.shape) || !take_numbers(value["data_offsets"], 2, offsets) ||
      offsets.size() != 2 || std::count(entry.shape.begin(), entry.shape.end(), 0))
    fail(Status::kBadModel, "tensor '", name, "' has a malformed shape or offsets");
  entry.begin = offsets[0];
  entry.end = offsets[1];
  // No product of this many numbers fits the file, and none below overflows.
  const int64_t most = limits::kFileBytes;
  entry.count = 1;
  for (int64_t n : entry.shape) entry.count = n > most / entry.count ? most : entry.count * n;
  if (entry.begin > entry.end || entry.end > available || entry.end - entry.begin != entry.count * (entry.half ? 2 : 4))
    fail(Status::kBadModel, "tensor '", name, "' says ", value["shape"].dump(), " ", dtype, " at ", entry.begin, "..",
         entry.end, ", which does not fit the file");
  return entry;
}

// In the order of the file, each where the one before ends.
std::vector<Entry> entries_of(const Json& header, int64_t available) {
  if (static_cast<int64_t>(header.size()) > limits::kTensors)
    fail(Status::kBadModel, header.size(), " tensors, the limit is ", limits::kTensors);
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) entries.push_back(entry_of(name, value, available));
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  int64_t at = 0, numbers = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != at) fail(Status::kBadModel, "tensors overlap or leave a gap at byte ", at);
    at = entry.end;
    numbers += entry.count;
  }
  if (at != available) fail(Status::kBadModel, available - at, " bytes after the last tensor");
  if (numbers > limits::kWeightBytes / 4)
    fail(Status::kBadModel, "the tensors take ", numbers * 4, " bytes as float32, the limit is ", limits::kWeightBytes);
  return entries;
}

// The bits of a float32 that equals this float16.
uint32_t widened(uint32_t half) {
  const uint32_t sign = (half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ff;
  if (exponent == 31) return sign | 0x7f800000 | mantissa << 13;
  if (exponent > 0) return sign | (exponent + 112) << 23 | mantissa << 13;
  // Zero, and the numbers below 2^-14: whole multiples of 2^-24, which float32 holds exactly.
  const float small = static_cast<float>(mantissa) * 0x1p-24f;
  uint32_t bits;
  std::memcpy(&bits, &small, 4);
  return sign | bits;
}

// Reads a tensor to `to`. F16 lies in the upper half of the place first: it is widened from there, front to back.
void read_tensor(const Bytes& bytes, int64_t offset, const Entry& entry, float* to) {
  auto* place = reinterpret_cast<unsigned char*>(to);
  const auto count = static_cast<size_t>(entry.count);
  if (entry.half) {
    unsigned char* halves = place + 2 * count;
    bytes.read(offset, halves, 2 * count);
    for (size_t i = 0; i < count; ++i) {
      uint16_t half;
      std::memcpy(&half, halves + 2 * i, 2);
      const uint32_t bits = widened(half);
      std::memcpy(place + 4 * i, &bits, 4);
    }
  } else {
    bytes.read(offset, place, 4 * count);
  }
  uint32_t bad = 0;
  for (size_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, place + 4 * i, 4);
    bad |= (bits & 0x7f800000) == 0x7f800000;
  }
  if (bad) fail(Status::kBadModel, "tensor '", entry.name, "' holds NaN or infinity");
}

void read_tensors(const Bytes& bytes, const Header& header, ModelFile& model) {
  const std::vector<Entry> entries = entries_of(header.json, bytes.size - header.end);
  const auto room = [](const Entry& e) {
    return (static_cast<size_t>(e.count) * 4 + kAlignment - 1) / kAlignment * kAlignment;
  };
  size_t total = 0;
  for (const Entry& entry : entries) total += room(entry);
  const auto align = std::align_val_t{kAlignment};
  const std::shared_ptr<float> storage(static_cast<float*>(::operator new(std::max<size_t>(total, 1), align)),
                                       [align](float* p) { ::operator delete(p, align); });
  float* place = storage.get();
  for (const Entry& entry : entries) {
    read_tensor(bytes, header.end + entry.begin, entry, place);
    TensorRef ref{place, static_cast<int>(entry.shape.size()), {1, 1, 1, 1}};
    std::copy(entry.shape.begin(), entry.shape.end(), ref.shape);
    model.weights[entry.name] = ref;
    place += room(entry) / sizeof(float);
  }
  model.storage = storage;
}

// Up to four of `names` as a list.
std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(names.size(), 4); ++i)
    text += (i ? ", '" : "'") + printable(names[i], 32) + "'";
  return "[" + text + "]";
}

void check_fit(const ModelFile& model) {
  std::map<std::string, bool> read;
  for (const Step& step : model.plan.steps)
    for (const auto& [role, tensor] : step.weights) read[tensor] = true;
  std::vector<std::string> missing, extra;
  for (const auto& [name, yes] : read)
    if (!model.weights.count(name)) missing.push_back(name);
  for (const auto& [name, ref] : model.weights)
    if (!read.count(name)) extra.push_back(name);
  if (!missing.empty() || !extra.empty())
    fail(Status::kBadModel, "tensors do not fit the plan (missing: ", listed(missing), ", not used: ", listed(extra),
         ")");
  const std::string &scale = model.metadata.at("scale"), &domain = model.metadata.at("domain");
  if (scale != std::to_string(model.plan.scale) || domain != model.plan.domain)
    fail(Status::kBadModel, "metadata says scale ", scale, ", ", domain, "; the plan says otherwise");
  check_plan(model.plan, model.weights);
}

// Runs `read`; what it finds wrong is said of `name`.
template <typename Read>
auto said_of(const std::string& name, const Read& read) {
  try {
    return read();
  } catch (const Error& e) {
    if (name.empty()) throw;
    throw Error(e.status(), printable(name, 4096) + ": " + e.what());
  }
}

}  // namespace

ModelFile read_model(const Bytes& bytes, const std::string& name) {
  return said_of(name, [&] {
    Header header = read_header(bytes);
    ModelFile model;
    model.metadata = take_metadata(header.json);
    model.plan = parse_plan(model.metadata.at("plan"));
    read_tensors(bytes, header, model);
    check_fit(model);
    return model;
  });
}

ModelFile read_model(const std::string& path) {
  return said_of(path, [&] { return read_model(file_bytes(path), ""); });
}

Metadata read_metadata(const std::string& path) {
  return said_of(path, [&] {
    Header header = read_header(file_bytes(path));
    return take_metadata(header.json);
  });
}

}  // namespace fastsr
