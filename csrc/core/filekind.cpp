// SPDX-License-Identifier: Apache-2.0
#include "core/filekind.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <string>

namespace fastsr {

namespace {

using namespace std::literals;

struct Kind {
  std::string_view magic;
  const char* name;
  size_t offset = 0;
};

constexpr const char* kPickle =
    "a pickle (an old PyTorch checkpoint?): `fastsr convert` makes model files of those it knows";
constexpr const char* kMatlab = "a MATLAB file: `fastsr convert` makes model files of those it knows";
constexpr const char* kOnnx = "an ONNX model: fastsr cannot read these";

// The first that fits counts.
constexpr Kind kKinds[] = {
    {"PK\3\4"sv, "a ZIP archive (a PyTorch checkpoint?): `fastsr convert` makes model files of those it knows"},
    {"PK\5\6"sv, "an empty ZIP archive"},
    {"\x80\2"sv, kPickle},
    {"\x80\3"sv, kPickle},
    {"\x80\4"sv, kPickle},
    {"\x80\5"sv, kPickle},
    {"(dp0\n"sv, kPickle},
    {"(lp0\n"sv, kPickle},
    {"ccollections\n"sv, kPickle},
    {"MATLAB 5.0 MAT-file"sv, kMatlab},
    {"MATLAB 7.3 MAT-file"sv, "a MATLAB file of version 7.3: save it with -v7 and use `fastsr convert`"},
    {"version https://git-lfs.github.com/spec/"sv, "a Git LFS pointer, not the file itself: run `git lfs pull`"},
    {"\x89PNG\r\n\x1a\n"sv, "a PNG image"},
    {"\xff\xd8\xff"sv, "a JPEG image"},
    {"GIF8"sv, "a GIF image"},
    {"BM"sv, "a BMP image"},
    {"WEBP"sv, "a WebP image", 8},
    {"II*\0"sv, "a TIFF image"},
    {"MM\0*"sv, "a TIFF image"},
    {"ftyp"sv, "an MP4, HEIF or AVIF file", 4},
    {"%PDF"sv, "a PDF document"},
    {"\x89HDF\r\n\x1a\n"sv, "an HDF5 file (of Keras?): fastsr cannot read these"},
    {"TFL3"sv, "a TensorFlow Lite model: fastsr cannot read these", 4},
    {"\x08\1\x12"sv, "a TensorFlow SavedModel: fastsr cannot read these"},
    {"7767517\n"sv, "an ncnn .param file: fastsr cannot read these"},
    {"7767517\r"sv, "an ncnn .param file: fastsr cannot read these"},
    {"GGUF"sv, "a GGUF model: fastsr cannot read these"},
    {"\x93NUMPY"sv, "a NumPy array"},
    {"\x1f\x8b"sv, "gzip-compressed: unpack it first"},
    {"BZh"sv, "bzip2-compressed: unpack it first"},
    {"\xfd"
     "7zXZ\0"sv,
     "xz-compressed: unpack it first"},
    {"\x28\xb5\x2f\xfd"sv, "zstd-compressed: unpack it first"},
    {"7z\xbc\xaf\x27\x1c"sv, "a 7z archive: unpack it first"},
    {"ustar"sv, "a tar archive: unpack it first", 257},
    {"\x7f"
     "ELF"sv,
     "a program or a library"},
};

// A protobuf of ONNX: ir_version, a small number, then another field of ModelProto that is text or a message.
bool is_onnx(std::string_view b) {
  return b.size() > 3 && b[0] == 8 && b[1] > 0 && b[1] < 32 && "\x12\x1a\x22\x32\x3a\x42"sv.find(b[2]) < 6;
}

// A frozen graph: a NodeDef, whose first field is its name, which is text, and whose second is its op.
bool is_graph_def(std::string_view b) {
  if (b.size() < 5 || b[0] != 10) return false;
  const size_t name = (b[1] & 0x80) ? 3 : 2;  // after a length of one or two bytes
  if (b[name] != 10) return false;
  const auto length = static_cast<size_t>(static_cast<unsigned char>(b[name + 1]));
  return length > 0 && b.size() > name + 2 + length && b[name + 2 + length] == 0x12;
}

// No control characters but white space, and mostly ASCII.
bool is_text(std::string_view b) {
  const auto is_control = [](unsigned char c) {
    return c == 0x7f || (c < 0x20 && c != '\n' && c != '\r' && c != '\t');
  };
  const auto is_ascii = [](unsigned char c) { return c < 0x80; };
  return !b.empty() && std::none_of(b.begin(), b.end(), is_control) &&
         std::count_if(b.begin(), b.end(), is_ascii) * 10 > static_cast<std::ptrdiff_t>(b.size()) * 7;
}

const char* kind_of_text(std::string_view b) {
  b.remove_prefix(std::min(b.find_first_not_of(" \t\r\n"), b.size()));
  std::string start(b.substr(0, 64));
  std::transform(start.begin(), start.end(), start.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto begins = [&](const char* with) { return start.rfind(with, 0) == 0; };
  if (begins("<!doctype html") || begins("<html")) return "an HTML page: the download went wrong";
  if (begins("<?xml") || begins("<net")) return "an XML file (of OpenVINO?): fastsr cannot read these";
  if (begins("{") || begins("[")) return "a JSON file";
  return "a text file";
}

}  // namespace

const char* guess_kind(std::string_view b) {
  for (const Kind& kind : kKinds)
    if (b.size() > kind.offset && b.substr(kind.offset, kind.magic.size()) == kind.magic) return kind.name;
  if (is_onnx(b)) return kOnnx;
  if (is_graph_def(b)) return "a frozen TensorFlow graph: fastsr cannot read these";
  return is_text(b.substr(0, 256)) ? kind_of_text(b) : nullptr;
}

}  // namespace fastsr
