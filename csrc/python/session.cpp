// SPDX-License-Identifier: Apache-2.0
#include "core/session.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "core/status.h"
#include "plan.h"

namespace py = pybind11;
using Array = py::array_t<float, py::array::c_style>;

namespace {

fastsr::Weights to_weights(const std::map<std::string, Array>& arrays) {
  fastsr::Weights weights;
  for (const auto& [name, array] : arrays) {
    if (array.ndim() > 4)
      fastsr::fail(fastsr::Status::kBadModel, "tensor '", name, "' has ", array.ndim(),
                   " dimensions, at most 4 are expected");
    fastsr::TensorRef ref{array.data(), static_cast<int>(array.ndim()), {1, 1, 1, 1}};
    for (int i = 0; i < ref.rank; ++i) ref.shape[i] = array.shape(i);
    weights[name] = ref;
  }
  return weights;
}

// A plan, or a step alone where the channels of its inputs are given.
std::unique_ptr<fastsr::Session> make(const py::dict& plan, const std::map<std::string, Array>& weights, int threads,
                                      int64_t tile, int64_t memory_limit, const std::string& isa, bool poison,
                                      unsigned shuffle, bool bf16, const std::string& way,
                                      const std::optional<std::vector<int64_t>>& channels) {
  fastsr::Options options;
  options.threads = threads;
  options.tile = tile;
  options.memory_limit = memory_limit;
  options.isa = isa;
  options.poison = poison;
  options.shuffle = shuffle;
  options.bf16 = bf16;
  options.way = way;
  const fastsr::Weights tensors = to_weights(weights);
  return std::make_unique<fastsr::Session>(
      channels ? fastsr::check_step(to_step(plan), *channels, tensors) : fastsr::check_plan(to_plan(plan), tensors),
      options);
}

std::vector<py::ssize_t> shape_of(const fastsr::Extent& e) { return {e.channels, e.height, e.width}; }

bool has_shape(const Array& array, const fastsr::Extent& e) {
  return array.ndim() == 3 && array.shape(0) == e.channels && array.shape(1) == e.height && array.shape(2) == e.width;
}

Array run(fastsr::Session& session, const Array& x, const std::vector<Array>& others,
          const std::optional<Array>& into) {
  if (x.ndim() != 3 || x.shape(0) != session.channels())
    fastsr::fail(fastsr::Status::kBadInput, "expected a [", session.channels(), ", h, w] array");
  const int64_t h = x.shape(1), w = x.shape(2);
  if (h < 1 || w < 1) fastsr::fail(fastsr::Status::kBadInput, "an image of ", w, "x", h, " pixels is empty");
  if (static_cast<int>(others.size()) + 1 != session.inputs())
    fastsr::fail(fastsr::Status::kBadInput, others.size(), " inputs beside the first, expected ", session.inputs() - 1);
  std::vector<const float*> inputs{x.data()};
  for (const Array& other : others) {
    const fastsr::Extent e = session.in_shape(static_cast<int>(inputs.size()), h, w);
    if (!has_shape(other, e))
      fastsr::fail(fastsr::Status::kBadInput, "input ", inputs.size(), ": expected a [", e.channels, ", ", e.height,
                   ", ", e.width, "] array");
    inputs.push_back(other.data());
  }
  const fastsr::Extent e = session.out_shape(h, w);
  Array out = into ? *into : Array(shape_of(e));
  if (!has_shape(out, e))
    fastsr::fail(fastsr::Status::kBadInput, "out: expected a [", e.channels, ", ", e.height, ", ", e.width, "] array");
  float* to = out.mutable_data();
  {
    py::gil_scoped_release release;
    session.run(inputs, h, w, to);
  }
  return out;
}

py::list explain(const fastsr::Session& session, int64_t h, int64_t w) {
  py::list rows;
  for (const fastsr::StepReport& r : session.explain(h, w)) {
    py::dict row;
    row["op"] = r.op;
    row["out"] = r.out;
    row["shape"] = py::make_tuple(r.shape.channels, r.shape.height, r.shape.width);
    row["radius"] = r.radius;
    row["flops"] = r.flops;
    row["bytes"] = r.bytes;
    row["task"] = py::make_tuple(r.task_height, r.task_width);
    row["band"] = r.band;
    row["who"] = r.who;
    rows.append(row);
  }
  return rows;
}

}  // namespace

void register_session(py::module_& m) {
  py::class_<fastsr::Session>(m, "Session")
      .def(py::init(&make), py::arg("plan"), py::arg("weights"), py::arg("threads") = 0, py::arg("tile") = 0,
           py::arg("memory_limit") = 0, py::arg("isa") = "", py::arg("poison") = false, py::arg("shuffle") = 0,
           py::arg("bf16") = false, py::arg("way") = "", py::arg("channels") = py::none())
      .def("run", &run, py::arg("x"), py::arg("others") = std::vector<Array>{}, py::arg("out").noconvert() = py::none())
      .def("explain", &explain, py::arg("h"), py::arg("w"))
      .def("flops", &fastsr::Session::flops, py::arg("h"), py::arg("w"))
      .def("memory", &fastsr::Session::memory, py::arg("h"), py::arg("w"))
      .def(
          "tile",
          [](const fastsr::Session& s, int64_t h, int64_t w) {
            const fastsr::Extent e = s.tile(h, w);
            return py::make_tuple(e.height, e.width);
          },
          py::arg("h"), py::arg("w"))
      .def_property_readonly("radius", &fastsr::Session::radius)
      .def_property_readonly("scale", &fastsr::Session::scale)
      .def_property_readonly("channels", &fastsr::Session::channels)
      .def_property_readonly("threads", &fastsr::Session::threads)
      .def_property_readonly("isa", &fastsr::Session::isa);
}
