// SPDX-License-Identifier: Apache-2.0
// upscale_y4m [-m MODEL] [-t THREADS]: YUV4MPEG2 of 4:2:0, 8 or 10 bits, from stdin to stdout:
//   ffmpeg -i in.mkv -f yuv4mpegpipe - | upscale_y4m -m annet_x3 | ffmpeg -i - out.mkv
// The next frame is read and the last one written while the network runs.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fastsr/fastsr.hpp>
#include <future>
#include <sstream>
#include <string>
#include <vector>

namespace {

struct Format {
  int width = 0, height = 0, bytes = 1;  // bytes of a sample
  bool full = false, left = false;
  std::string rest;  // of the header: frame rate, interlacing, aspect ...

  size_t luma() const { return size_t(width) * height * bytes; }
  size_t chroma() const { return size_t((width + 1) / 2) * ((height + 1) / 2) * bytes; }
  fastsr_image view(unsigned char* data) const {
    fastsr_image image = fastsr_packed(FASTSR_YUV420, width, height, data);
    image.sample = bytes == 1 ? FASTSR_UINT8 : FASTSR_UINT16;
    image.depth = bytes == 1 ? 8 : 10;
    image.matrix = FASTSR_BT709;
    image.range = full ? FASTSR_FULL : FASTSR_LIMITED;
    image.siting = left ? FASTSR_LEFT : FASTSR_CENTER;
    image.planes[1] = data + luma();
    image.planes[2] = data + luma() + chroma();
    return image;
  }
};

bool read_line(std::string& line) {
  line.clear();
  for (int c; (c = std::getchar()) != EOF && line.size() < 4096;) {
    if (c == '\n') return true;
    line += char(c);
  }
  return false;
}

Format read_header() {
  std::string line, word;
  Format format;
  if (!read_line(line) || line.rfind("YUV4MPEG2", 0) != 0) throw std::runtime_error("stdin is no YUV4MPEG2 stream");
  std::istringstream words(line.substr(9));
  while (words >> word) {
    if (word[0] == 'W') format.width = std::atoi(&word[1]);
    if (word[0] == 'H') format.height = std::atoi(&word[1]);
    if (word[0] == 'C') {
      if (word.rfind("C420", 0) != 0 || (word.find("p1") != std::string::npos && word != "C420p10"))
        throw std::runtime_error("color space " + word + " is not supported: ask ffmpeg for -pix_fmt yuv420p");
      format.bytes = word == "C420p10" ? 2 : 1;
      format.left = word == "C420mpeg2" || word == "C420p10";
    }
    if (word == "XCOLORRANGE=FULL") format.full = true;
    if (word[0] != 'W' && word[0] != 'H') format.rest += " " + word;
  }
  if (format.width < 1 || format.height < 1 || format.width > 32768 || format.height > 32768)
    throw std::runtime_error("the stream's header names no size");
  return format;
}

bool read_frame(std::vector<unsigned char>& frame) {
  std::string line;
  if (!read_line(line)) return false;
  if (line.rfind("FRAME", 0) != 0) throw std::runtime_error("the stream has no frame where one is due");
  if (std::fread(frame.data(), 1, frame.size(), stdin) != frame.size()) throw std::runtime_error("a frame was cut");
  return true;
}

void write_frame(const std::vector<unsigned char>& frame) {
  if (std::fwrite("FRAME\n", 1, 6, stdout) != 6 || std::fwrite(frame.data(), 1, frame.size(), stdout) != frame.size())
    throw std::runtime_error("stdout takes no more");
}

}  // namespace

int main(int argc, char** argv) try {
  std::string name = "annet_x3";
  int threads = 0, frames = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "-m") name = argv[i + 1];
    if (std::string(argv[i]) == "-t") threads = std::atoi(argv[i + 1]);
  }
  const fastsr::Model model(name);
  fastsr::Context context(model, threads);
  const Format in = read_header();
  Format out = in;
  out.width *= model.scale();
  out.height *= model.scale();
  std::printf("YUV4MPEG2 W%d H%d%s\n", out.width, out.height, out.rest.c_str());
  std::vector<unsigned char> from[2], to[2];
  for (auto& frame : from) frame.resize(in.luma() + 2 * in.chroma());
  for (auto& frame : to) frame.resize(out.luma() + 2 * out.chroma());
  std::future<void> written;
  double network = 0;
  const auto now = std::chrono::steady_clock::now;
  const auto begin = now();
  for (bool more = read_frame(from[0]); more; ++frames) {
    const int k = frames & 1;
    auto next = std::async(std::launch::async, [&, k] { return read_frame(from[1 - k]); });
    const auto start = now();
    context.upscale(in.view(from[k].data()), out.view(to[k].data()));
    network += std::chrono::duration<double>(now() - start).count();
    if (written.valid()) written.get();
    written = std::async(std::launch::async, [&, k] { write_frame(to[k]); });
    more = next.get();
  }
  if (written.valid()) written.get();
  if (std::fflush(stdout) != 0) throw std::runtime_error("stdout takes no more");
  const double seconds = std::chrono::duration<double>(now() - begin).count();
  if (frames)
    std::fprintf(stderr, "%d frames, %.1f per second, of the network alone %.1f\n", frames, frames / seconds,
                 frames / network);
} catch (const std::exception& e) {
  std::fprintf(stderr, "upscale_y4m: %s\n", e.what());
  return 1;
}
