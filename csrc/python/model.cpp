// SPDX-License-Identifier: Apache-2.0
// Model files for Python: fastsr/modelfile.py makes its classes of what these give.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/limits.h"
#include "core/modelfile.h"
#include "core/plan_json.h"
#include "plan.h"

namespace py = pybind11;

namespace {

// (plan, weights, metadata). The weights are read-only views of one piece of memory, which they keep alive together.
py::tuple from_model(const fastsr::ModelFile& model) {
  using Storage = std::shared_ptr<const float>;
  const py::capsule owner(new Storage(model.storage), [](void* p) { delete static_cast<Storage*>(p); });
  py::dict weights;
  for (const auto& [name, tensor] : model.weights) {
    const std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.rank);
    py::array_t<float> array(shape, tensor.data, owner);
    array.attr("setflags")(py::arg("write") = false);
    weights[py::str(name)] = array;
  }
  return py::make_tuple(from_plan(model.plan), weights, model.metadata);
}

py::dict limits() {
  py::dict table;
  table["file_bytes"] = fastsr::limits::kFileBytes;
  table["header_bytes"] = fastsr::limits::kHeaderBytes;
  table["weight_bytes"] = fastsr::limits::kWeightBytes;
  table["tensors"] = fastsr::limits::kTensors;
  table["steps"] = fastsr::limits::kSteps;
  return table;
}

}  // namespace

void register_model(py::module_& m) {
  // Names of files are bytes: what the file system has, whether it is UTF-8 or not.
  m.def(
      "read_model",
      [](const py::bytes& path) {
        const std::string name = path;
        fastsr::ModelFile model;
        {
          const py::gil_scoped_release release;
          model = fastsr::read_model(name);
        }
        return from_model(model);
      },
      py::arg("path"));
  m.def(
      "parse_model",
      [](const py::bytes& data, const std::string& name) {
        const std::string_view view = data;
        return from_model(fastsr::read_model(fastsr::memory_bytes(view.data(), view.size()), name));
      },
      py::arg("data"), py::arg("name") = "");
  m.def("read_metadata", [](const py::bytes& path) { return fastsr::read_metadata(path); }, py::arg("path"));
  m.def(
      "parse_plan", [](const py::bytes& text) { return from_plan(fastsr::parse_plan(std::string_view(text))); },
      py::arg("text"));
  m.attr("MODEL_LIMITS") = limits();
}
