// SPDX-License-Identifier: Apache-2.0
// upscale_image [-m MODEL] [-t THREADS] IN OUT: an image file, PPM or, where libpng was found, PNG.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fastsr/fastsr.hpp>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(HAVE_PNG)
#include <png.h>
#endif

namespace {

struct Image {
  int width = 0, height = 0;
  fastsr_format format = FASTSR_RGB;
  std::vector<unsigned char> pixels;
  int channels() const { return format == FASTSR_RGB ? 3 : 4; }
  fastsr_image view() { return fastsr_packed(format, width, height, pixels.data()); }
};

struct Close {
  void operator()(FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<FILE, Close>;

File open(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode));
  if (!file) throw std::runtime_error(path + ": " + std::strerror(errno));
  return file;
}

bool is_png(const std::string& path) { return path.size() > 4 && path.compare(path.size() - 4, 4, ".png") == 0; }

Image read_ppm(const std::string& path) {
  const File file = open(path, "rb");
  Image image;
  if (std::fscanf(file.get(), "P6 %d %d 255", &image.width, &image.height) != 2 || image.width < 1 ||
      image.height < 1 || image.width > 65535 || image.height > 65535 || std::fgetc(file.get()) == EOF)
    throw std::runtime_error(path + ": not an 8-bit PPM (P6)");
  image.pixels.resize(size_t(3) * image.width * image.height);
  if (std::fread(image.pixels.data(), 1, image.pixels.size(), file.get()) != image.pixels.size())
    throw std::runtime_error(path + ": the image was cut");
  return image;
}

void write_ppm(const std::string& path, const Image& image) {
  if (image.format != FASTSR_RGB) throw std::runtime_error(path + ": PPM has no alpha");
  const File file = open(path, "wb");
  std::fprintf(file.get(), "P6\n%d %d\n255\n", image.width, image.height);
  if (std::fwrite(image.pixels.data(), 1, image.pixels.size(), file.get()) != image.pixels.size() ||
      std::fflush(file.get()) != 0)
    throw std::runtime_error(path + ": " + std::strerror(errno));
}

#if defined(HAVE_PNG)
Image read_png(const std::string& path) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&png, path.c_str())) throw std::runtime_error(path + ": " + png.message);
  Image image;
  if (png.format & PNG_FORMAT_FLAG_ALPHA) image.format = FASTSR_RGBA;
  png.format = image.format == FASTSR_RGBA ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
  image.width = int(png.width);
  image.height = int(png.height);
  image.pixels.resize(PNG_IMAGE_SIZE(png));
  if (!png_image_finish_read(&png, nullptr, image.pixels.data(), 0, nullptr))
    throw std::runtime_error(path + ": " + png.message);
  return image;
}

void write_png(const std::string& path, const Image& image) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = png_uint_32(image.width);
  png.height = png_uint_32(image.height);
  png.format = image.format == FASTSR_RGBA ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
  png.flags = PNG_IMAGE_FLAG_FAST;
  if (!png_image_write_to_file(&png, path.c_str(), 0, image.pixels.data(), 0, nullptr))
    throw std::runtime_error(path + ": " + png.message);
}
#else
Image read_png(const std::string& path) { throw std::runtime_error(path + ": built without libpng"); }
void write_png(const std::string& path, const Image&) { throw std::runtime_error(path + ": built without libpng"); }
#endif

}  // namespace

int main(int argc, char** argv) try {
  std::string name = "annet_x3";
  int threads = 0, first = 1;
  for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
    if (std::string(argv[first]) == "-m") name = argv[first + 1];
    if (std::string(argv[first]) == "-t") threads = std::atoi(argv[first + 1]);
  }
  if (argc - first != 2) {
    std::fprintf(stderr, "usage: %s [-m MODEL] [-t THREADS] IN OUT\n", argv[0]);
    return 2;
  }
  const std::string from = argv[first], to = argv[first + 1];
  Image small = is_png(from) ? read_png(from) : read_ppm(from), large;
  const fastsr::Model model(name);
  large.format = small.format;
  large.width = small.width * model.scale();
  large.height = small.height * model.scale();
  large.pixels.resize(size_t(large.channels()) * large.width * large.height);
  fastsr::Context(model, threads).upscale(small.view(), large.view());
  is_png(to) ? write_png(to, large) : write_ppm(to, large);
} catch (const std::exception& e) {
  std::fprintf(stderr, "upscale_image: %s\n", e.what());
  return 1;
}
