// SPDX-License-Identifier: Apache-2.0
#include "core/json.h"

#include <vector>

#include "core/limits.h"
#include "core/status.h"

namespace fastsr {

namespace {

// Builds the value from the parser's events, so that what is refused is refused where it is met.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(const std::string& what, Json& root) : what_(what), root_(root) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(int64_t value) override { return put(value); }
  bool number_unsigned(uint64_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) refuse("an integer beyond 64 bits");
    return put(static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string& text) override {
    // The parser makes a float of an integer that its types cannot hold.
    if (text.find_first_of(".eE") == std::string::npos) refuse("an integer beyond 64 bits");
    return put(value);
  }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(Json::binary_t&) override { refuse("binary data"); }

  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (open_.back()->contains(name)) fail(Status::kBadModel, what_, " is not valid JSON (duplicate key '", name, "')");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    fail(Status::kBadModel, what_, " is not valid JSON (at byte ", position, ")");
  }

 private:
  [[noreturn]] void refuse(const char* why) { fail(Status::kBadModel, what_, " is not valid JSON (", why, ")"); }

  Json* add(Json&& value) {
    if (open_.empty()) return &(root_ = std::move(value));
    Json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool put(Json&& value) {
    add(std::move(value));
    return true;
  }
  bool open(Json&& value) {
    if (static_cast<int64_t>(open_.size()) >= limits::kJsonDepth) refuse("nested too deeply");
    open_.push_back(add(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& what_;
  Json& root_;
  std::vector<Json*> open_;  // the containers that are not closed yet, outermost first
  std::string key_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& what) {
  // The parser skips a byte order mark and takes a NUL for the end of the text; JSON allows neither.
  const size_t nul = text.find('\0');
  if (nul != std::string_view::npos) fail(Status::kBadModel, what, " is not valid JSON (at byte ", nul + 1, ")");
  if (text.substr(0, 3) == "\xef\xbb\xbf") fail(Status::kBadModel, what, " is not valid JSON (a byte order mark)");
  Json root;
  Builder builder(what, root);
  Json::sax_parse(text.begin(), text.end(), &builder);
  if (!root.is_object()) fail(Status::kBadModel, what, " is not a JSON object");
  return root;
}

bool has_keys(const Json& value, std::initializer_list<const char*> keys) {
  if (!value.is_object() || value.size() != keys.size()) return false;
  for (const char* key : keys)
    if (!value.contains(key)) return false;
  return true;
}

}  // namespace fastsr
