// SPDX-License-Identifier: Apache-2.0
#include "core/pixels.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/hidden.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/pool.h"
#include "core/status.h"
#include "core/tiles.h"
#include "python/pixels.h"

namespace py = pybind11;
using Array = py::array_t<float, py::array::c_style>;
using fastsr::Pixels;
using fastsr::Status;

namespace {

fastsr::Domain domain_of(const std::string& name) {
  if (name != "y" && name != "rgb") fastsr::fail(Status::kBadInput, "domain '", name, "' is not y or rgb");
  return name == "y" ? fastsr::Domain::kY : fastsr::Domain::kRgb;
}

int count(int threads) { return threads ? threads : fastsr::default_threads(); }

void set_samples(Pixels& pixels, const py::dtype& dtype) {
  const char kind = dtype.kind();
  const auto size = dtype.itemsize();
  if (kind == 'u' && size == 1) {
    pixels.sample = fastsr::Sample::kU8;
    pixels.levels = 255;
  } else if (kind == 'u' && size == 2) {
    pixels.sample = fastsr::Sample::kU16;
    pixels.levels = 65535;
  } else if (kind == 'f' && size == 4) {
    pixels.sample = fastsr::Sample::kF32;
  } else {
    fastsr::fail(Status::kBadInput, "dtype ", py::str(dtype).cast<std::string>(),
                 " is not supported: use uint8, uint16 or float32");
  }
  pixels.swapped = dtype.byteorder() == '>';  // this machine's order is '='
}

// `order` names the channels as they lie in memory: "BGRA"; empty: the usual ones.
std::unique_ptr<PixelArray> packed(const py::array& array, bool channels_first, const std::string& order) {
  auto made = std::make_unique<PixelArray>();
  made->arrays = {array};
  made->channels_first = channels_first;
  made->flat = array.ndim() == 2;
  Pixels& pixels = made->pixels;
  set_samples(pixels, array.dtype());
  const py::ssize_t depth = channels_first ? 0 : 2, first = channels_first && !made->flat ? 1 : 0;
  const py::ssize_t channels = made->flat ? 1 : array.ndim() == 3 ? array.shape(depth) : 0;
  if (channels < 1 || channels > 4)
    fastsr::fail(Status::kBadInput, "an array of shape ", py::str(array.attr("shape")).cast<std::string>(),
                 " is not an image: use [H, W] or [H, W, 1 to 4]");
  constexpr fastsr::Colors kColors[] = {fastsr::Colors::kGray, fastsr::Colors::kGrayAlpha, fastsr::Colors::kRgb,
                                        fastsr::Colors::kRgba};
  pixels.colors = kColors[channels - 1];
  pixels.height = array.shape(first);
  pixels.width = array.shape(first + 1);
  // Whether it may be written is asked where it is.
  unsigned char* const data = static_cast<unsigned char*>(const_cast<void*>(array.data()));
  const std::string usual = std::vector<std::string>{"Y", "YA", "RGB", "RGBA"}[static_cast<size_t>(channels - 1)];
  if (!order.empty() && !std::is_permutation(order.begin(), order.end(), usual.begin(), usual.end()))
    fastsr::fail(Status::kBadInput, "order '", order, "' does not name the channels of ", usual);
  for (py::ssize_t k = 0; k < channels; ++k) {
    const size_t index = static_cast<size_t>(k);
    const py::ssize_t place = order.empty() ? k : static_cast<py::ssize_t>(order.find(usual[index]));
    pixels.channels[k] = {data + (made->flat ? 0 : place * array.strides(depth)), array.strides(first),
                          array.strides(first + 1)};
  }
  fastsr::check_pixels(pixels);
  return made;
}

py::object visible(const py::object& self, int64_t reach) {
  const PixelArray& image = self.cast<const PixelArray&>();
  if (!fastsr::has_alpha(image.pixels.colors) || !fastsr::has_hidden(image.pixels, count(0))) return self;
  const py::array& like = image.arrays[0];
  const py::array copy(like.dtype(), std::vector<py::ssize_t>{image.pixels.height, image.pixels.width,
                                                              fastsr::channels_of(image.pixels.colors)});
  auto made = packed(copy, false, "");
  {
    py::gil_scoped_release release;
    fastsr::ColorSpread()(image.pixels, made->pixels, reach + fastsr::kPixelReach);
  }
  return py::cast(std::move(made));
}

std::unique_ptr<PixelArray> yuv(const std::string& kind, const std::vector<py::array>& planes,
                                const std::string& matrix, bool full, const std::string& siting) {
  auto made = std::make_unique<PixelArray>();
  made->arrays = planes;
  const auto plane = [&](size_t i) -> const py::array& {
    const py::array& p = planes.at(i);
    const py::ssize_t last = p.ndim() - 1;
    if (p.ndim() < 2 || p.strides(last) != p.itemsize())
      fastsr::fail(Status::kBadInput, "plane ", i, ": rows must be dense");
    return p;
  };
  const auto data = [&](size_t i) { return static_cast<unsigned char*>(const_cast<void*>(plane(i).data())); };
  const int64_t h = plane(0).shape(0), w = plane(0).shape(1);
  Pixels& pixels = made->pixels;
  if (kind == "i420") {
    pixels = fastsr::i420(data(0), plane(0).strides(0), data(1), data(2), plane(1).strides(0), h, w);
  } else {
    pixels = (kind == "nv12" ? fastsr::nv12 : fastsr::p010)(data(0), plane(0).strides(0), data(1), plane(1).strides(0),
                                                            h, w);
  }
  pixels.matrix = matrix == "bt601"   ? fastsr::Matrix::kBt601
                  : matrix == "bt709" ? fastsr::Matrix::kBt709
                                      : fastsr::Matrix::kBt2020;
  pixels.full = full;
  pixels.siting = siting == "left" ? fastsr::Siting::kLeft : fastsr::Siting::kCenter;
  fastsr::check_pixels(pixels);
  return made;
}

void check(const PixelArray& image, std::optional<int64_t> item, int threads) {
  fastsr::BadValue bad{};
  bool good = false;
  {
    py::gil_scoped_release release;
    good = fastsr::check_values(image.pixels, image.channels_first, count(threads), fastsr::choose_isa(""), &bad);
  }
  if (good) return;
  std::ostringstream index;
  index << "(";
  if (item) index << *item << ", ";
  if (image.channels_first && !image.flat) index << bad.channel << ", ";
  index << bad.y << ", " << bad.x;
  if (!image.channels_first && !image.flat) index << ", " << bad.channel;
  index << ")";
  fastsr::fail(Status::kBadInput, fastsr::describe(bad, index.str()));
}

Array read_pixels(const PixelArray& image, const std::string& domain, const std::string& isa, int threads) {
  const Pixels& pixels = image.pixels;
  const auto source = fastsr::make_source(pixels, domain_of(domain), fastsr::choose_isa(isa));
  const int64_t channels = domain == "y" ? 1 : 3, h = pixels.height, w = pixels.width;
  Array out({channels, h, w});
  float* const to = out.mutable_data();
  py::gil_scoped_release release;
  constexpr int64_t kRows = 16;
  fastsr::parallel_for((h + kRows - 1) / kRows, count(threads), [&](int64_t i, int) {
    // A source writes past the ends of rows, where the next one begins.
    const fastsr::Rect r{i * kRows, 0, std::min(h, (i + 1) * kRows), w};
    const int64_t stride = w + 16;
    std::vector<float> band(static_cast<size_t>(channels * kRows * stride));
    source->read({band.data(), kRows * stride, stride, channels, r});
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = r.y0; y < r.y1; ++y)
        std::copy_n(&band[static_cast<size_t>((c * kRows + y - r.y0) * stride)], w, to + (c * h + y) * w);
  });
  return out;
}

bool write_pixels(const Array& planes, const PixelArray& given, PixelArray& out, const std::string& domain,
                  int64_t scale, std::pair<int64_t, int64_t> tile, const std::string& isa, int threads) {
  const int64_t h = given.pixels.height * scale, w = given.pixels.width * scale;
  if (planes.ndim() != 3 || planes.shape(0) != (domain == "y" ? 1 : 3) || planes.shape(1) != h || planes.shape(2) != w)
    fastsr::fail(Status::kBadInput, "planes: expected a [", domain == "y" ? 1 : 3, ", ", h, ", ", w, "] array");
  out.check_writeable();
  const auto sink = fastsr::make_sink(given.pixels, out.pixels, domain_of(domain), scale, fastsr::choose_isa(isa));
  const fastsr::View all{const_cast<float*>(planes.data()), h * w, w, planes.shape(0), {0, 0, h, w}};
  py::gil_scoped_release release;
  const fastsr::Grid grid({0, 0, h, w}, tile.first, tile.second ? tile.second : w);
  const size_t bytes = fastsr::aligned(sink->scratch_bytes(grid.tile_h, std::min(w, grid.tile_w)));
  const int workers = count(threads);
  const fastsr::Block scratch = fastsr::allocate(bytes * static_cast<size_t>(workers));
  fastsr::parallel_for(grid.count(), workers, [&](int64_t i, int worker) {
    const fastsr::Rect r = grid[i];
    const fastsr::View band{fastsr::at(all, 0, r.y0, r.x0), h * w, w, all.channels, r};
    sink->write(band, scratch.get() + static_cast<size_t>(worker) * bytes);
  });
  sink->finish(workers);
  return sink->finite();
}

}  // namespace

void register_pixels(py::module_& m) {
  py::class_<PixelArray>(m, "Pixels")
      .def(py::init(&packed), py::arg("array"), py::arg("channels_first") = false, py::arg("order") = "")
      .def_static("yuv", &yuv, py::arg("kind"), py::arg("planes"), py::arg("matrix") = "bt709", py::arg("full") = false,
                  py::arg("siting") = "left")
      .def("check", &check, py::arg("item") = py::none(), py::arg("threads") = 0)
      .def("visible", &visible, py::arg("reach"))
      .def_property_readonly("array", [](const PixelArray& image) { return image.arrays[0]; });
  m.def(
      "keep_hidden",
      [](const PixelArray& given, PixelArray& out) {
        out.check_writeable();
        const int64_t scale = out.pixels.height / given.pixels.height;
        fastsr::check_pixels(given.pixels, out.pixels, scale);
        py::gil_scoped_release release;
        fastsr::keep_hidden(given.pixels, out.pixels, count(0));
      },
      py::arg("given"), py::arg("out"));
  m.attr("PIXEL_REACH") = fastsr::kPixelReach;
  m.def("read_pixels", &read_pixels, py::arg("pixels"), py::arg("domain"), py::arg("isa") = "", py::arg("threads") = 0);
  m.def("write_pixels", &write_pixels, py::arg("planes"), py::arg("given"), py::arg("out"), py::arg("domain"),
        py::arg("scale"), py::arg("tile") = std::pair<int64_t, int64_t>{16, 0}, py::arg("isa") = "",
        py::arg("threads") = 0);
  m.attr("LOWEST") = fastsr::kLowest;
  m.attr("HIGHEST") = fastsr::kHighest;
  m.def("ycbcr", [] {
    const auto rows = [](const fastsr::Mix(&mixes)[3]) {
      std::vector<std::vector<float>> made;
      for (const fastsr::Mix& mix : mixes) made.push_back({mix.m[0], mix.m[1], mix.m[2], mix.offset});
      return made;
    };
    return py::make_tuple(rows(fastsr::rgb_ycbcr().there), rows(fastsr::rgb_ycbcr().back));
  });
}
