// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/isa.h"
#include "core/pool.h"
#include "core/probe.h"
#include "core/resize.h"
#include "core/rule.h"
#include "core/status.h"
#include "core/tiles.h"

namespace py = pybind11;
using Array = py::array_t<float, py::array::c_style>;

void register_machine(py::module_& m) {
  m.def("ops", [] {
    std::vector<std::string> names;
    for (int i = 0; i < fastsr::kRuleCount; ++i) names.push_back(fastsr::kRules[i]->op);
    return names;
  });
  m.def("isas", [] { return fastsr::usable_isas(); });
  m.def("isa", [] { return fastsr::choose_isa(""); });
  m.def("default_threads", &fastsr::default_threads);
  m.def(
      "peak_gflops",
      [](int threads, double seconds) {
        py::gil_scoped_release release;
        return fastsr::peak_gflops(threads, seconds);
      },
      py::arg("threads") = 0, py::arg("seconds") = 0.05);
  m.def(
      "resize_bicubic",
      [](const Array& x, int64_t out_h, int64_t out_w, double scale, int threads) {
        if (x.ndim() != 3 || x.size() == 0 || out_h < 1 || out_w < 1)
          fastsr::fail(fastsr::Status::kBadInput,
                       "resize_bicubic: expected a non-empty [C, h, w] array and a size of at least 1x1");
        Array out({x.shape(0), static_cast<py::ssize_t>(out_h), static_cast<py::ssize_t>(out_w)});
        const float* from = x.data();
        float* to = out.mutable_data();
        const int64_t c = x.shape(0), h = x.shape(1), w = x.shape(2);
        {
          py::gil_scoped_release release;
          fastsr::resize_bicubic(from, c, h, w, to, out_h, out_w, scale, threads ? threads : fastsr::default_threads());
        }
        return out;
      },
      py::arg("x"), py::arg("out_h"), py::arg("out_w"), py::arg("scale") = 0.0, py::arg("threads") = 0);
  m.def(
      "tile_grid",
      [](int64_t h, int64_t w, int64_t tile_h, int64_t tile_w) {
        if (h < 1 || w < 1 || tile_h < 1 || tile_w < 1)
          fastsr::fail(fastsr::Status::kBadInput, "tile_grid: sizes must be at least 1");
        const fastsr::Grid grid({0, 0, h, w}, tile_h, tile_w);
        std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>> tiles;
        for (int64_t i = 0; i < grid.count(); ++i) {
          const fastsr::Rect r = grid[i];
          tiles.emplace_back(r.y0, r.x0, r.y1, r.x1);
        }
        return tiles;
      },
      py::arg("h"), py::arg("w"), py::arg("tile_h"), py::arg("tile_w"));
}
