// SPDX-License-Identifier: Apache-2.0
#include "core/session.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <deque>
#include <optional>

#include "core/explain.h"
#include "core/images.h"
#include "core/planes.h"
#include "core/status.h"
#include "plan.h"

#include "python/pixels.h"

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
                                      unsigned shuffle, bool bf16, const std::string& algorithm,
                                      const std::optional<std::vector<int64_t>>& channels) {
  fastsr::Options options;
  options.threads = threads;
  options.tile = tile;
  options.memory_limit = memory_limit;
  options.isa = isa;
  options.poison = poison;
  options.shuffle = shuffle;
  options.bf16 = bf16;
  options.algorithm = algorithm;
  const fastsr::Weights tensors = to_weights(weights);
  return std::make_unique<fastsr::Session>(
      channels ? fastsr::check_step(to_step(plan), *channels, tensors) : fastsr::check_plan(to_plan(plan), tensors),
      options);
}

std::vector<py::ssize_t> shape_of(const fastsr::Extent& e) { return {e.channels, e.height, e.width}; }

bool has_shape(const Array& array, const fastsr::Extent& e) {
  return array.ndim() == 3 && array.shape(0) == e.channels && array.shape(1) == e.height && array.shape(2) == e.width;
}

// Asks Python between tasks whether to go on: a signal (Ctrl-C), or `progress`, a callable that is given how much is done.
class Watcher {
 public:
  explicit Watcher(const py::object& progress) : progress_(progress) {}
  bool operator()(double done) {
    py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() == 0) {
      if (progress_.is_none()) return true;
      try {
        progress_(done);
        return true;
      } catch (py::error_already_set& e) {
        e.restore();
      }
    }
    error_ = true;
    PyErr_Fetch(&type_, &value_, &trace_);
    return false;
  }
  // With the GIL: raises what stopped the run.
  void rethrow() {
    if (!error_) return;
    PyErr_Restore(type_, value_, trace_);
    throw py::error_already_set();
  }

 private:
  const py::object& progress_;
  bool error_ = false;
  PyObject *type_ = nullptr, *value_ = nullptr, *trace_ = nullptr;
};

Array run(fastsr::Session& session, const Array& x, const std::vector<Array>& others, const std::optional<Array>& into,
          const py::object& progress) {
  const std::shared_ptr<const fastsr::Program> program = session.program();
  const fastsr::Graph& graph = program->graph;
  if (x.ndim() != 3 || x.shape(0) != graph.values[0].channels)
    fastsr::fail(fastsr::Status::kBadInput, "expected a [", graph.values[0].channels, ", h, w] array");
  const int64_t h = x.shape(1), w = x.shape(2);
  if (h < 1 || w < 1) fastsr::fail(fastsr::Status::kBadInput, "an image of ", w, "x", h, " pixels is empty");
  if (static_cast<int>(others.size()) + 1 != graph.inputs)
    fastsr::fail(fastsr::Status::kBadInput, others.size(), " inputs beside the first, expected ", graph.inputs - 1);
  std::deque<fastsr::PlaneSource> sources;
  std::vector<const fastsr::Source*> inputs;
  const auto add = [&](const Array& array) {
    const fastsr::Extent e = graph.extent(static_cast<int>(inputs.size()), h, w);
    if (!has_shape(array, e))
      fastsr::fail(fastsr::Status::kBadInput, "input ", inputs.size(), ": expected a [", e.channels, ", ", e.height,
                   ", ", e.width, "] array");
    sources.emplace_back(array.data(), e);
    inputs.push_back(&sources.back());
  };
  add(x);
  for (const Array& other : others) add(other);
  const fastsr::Extent e = graph.extent(graph.out(), h, w);
  Array out = into ? *into : Array(shape_of(e));
  if (!has_shape(out, e))
    fastsr::fail(fastsr::Status::kBadInput, "out: expected a [", e.channels, ", ", e.height, ", ", e.width, "] array");
  fastsr::PlaneSink sink(out.mutable_data(), e);
  Watcher watcher(progress);
  try {
    py::gil_scoped_release release;
    session.run(inputs, h, w, sink, std::ref(watcher));
  } catch (const fastsr::Error&) {
    watcher.rethrow();
    throw;
  }
  return out;
}

// Whether what the network gave was finite; if not, `out` holds anything.
bool upscale(fastsr::Session& session, const PixelArray& given, PixelArray& out, const py::object& progress) {
  out.check_writeable();
  fastsr::Images images(session.program());
  Watcher watcher(progress);
  try {
    py::gil_scoped_release release;
    return images.run(session, given.pixels, out.pixels, std::ref(watcher));
  } catch (const fastsr::Error&) {
    watcher.rethrow();
    throw;
  }
}

py::dict to_dict(const fastsr::StepFacts& facts) {
  py::dict row;
  row["op"] = facts.op;
  row["out"] = facts.out;
  row["shape"] = py::make_tuple(facts.shape.channels, facts.shape.height, facts.shape.width);
  row["radius"] = facts.radius;
  row["flops"] = facts.flops;
  return row;
}

py::list explain(const fastsr::Session& session, int64_t h, int64_t w) {
  py::list rows;
  for (const fastsr::StepReport& r : fastsr::explain(*session.program(), h, w)) {
    py::dict row = to_dict(r.facts);
    row["bytes"] = r.bytes;
    row["task"] = py::make_tuple(r.task_height, r.task_width);
    row["band"] = r.band;
    row["who"] = r.who;
    rows.append(row);
  }
  return rows;
}

py::list facts(const fastsr::Graph& graph, int64_t h, int64_t w) {
  py::list rows;
  for (const fastsr::StepFacts& row : fastsr::facts(graph, h, w)) rows.append(to_dict(row));
  return rows;
}

// Tensors of which only the shape is known.
fastsr::Weights to_shapes(const std::map<std::string, std::vector<int64_t>>& shapes) {
  fastsr::Weights weights;
  for (const auto& [name, shape] : shapes) {
    if (shape.size() > 4)
      fastsr::fail(fastsr::Status::kBadModel, "tensor '", name, "' has ", shape.size(),
                   " dimensions, at most 4 are expected");
    fastsr::TensorRef ref{nullptr, static_cast<int>(shape.size()), {1, 1, 1, 1}};
    std::copy(shape.begin(), shape.end(), ref.shape);
    weights[name] = ref;
  }
  return weights;
}

std::unique_ptr<fastsr::Graph> make_graph(const py::dict& plan,
                                          const std::map<std::string, std::vector<int64_t>>& shapes,
                                          const std::optional<std::vector<int64_t>>& channels) {
  const fastsr::Weights tensors = to_shapes(shapes);
  return std::make_unique<fastsr::Graph>(channels ? fastsr::check_step(to_step(plan), *channels, tensors)
                                                  : fastsr::check_plan(to_plan(plan), tensors));
}

// The steps that a kernel would run, composed ops expanded, as a plan has them.
py::list steps_of(const fastsr::Graph& graph) {
  py::list steps;
  for (const fastsr::Node& node : graph.nodes) {
    py::dict params, step;
    for (const auto& [name, value] : node.given.params)
      std::visit([&](const auto& v) { params[py::str(name)] = v; }, value);
    step["op"] = node.given.op;
    step["inputs"] = node.given.inputs;
    step["out"] = node.given.out;
    step["weights"] = node.given.weights;
    step["params"] = params;
    step["step"] = node.step;
    steps.append(step);
  }
  return steps;
}

}  // namespace

void register_session(py::module_& m) {
  py::class_<fastsr::Session>(m, "Session")
      .def(py::init(&make), py::arg("plan"), py::arg("weights"), py::arg("threads") = 0, py::arg("tile") = 0,
           py::arg("memory_limit") = 0, py::arg("isa") = "", py::arg("poison") = false, py::arg("shuffle") = 0,
           py::arg("bf16") = false, py::arg("algorithm") = "", py::arg("channels") = py::none())
      .def("run", &run, py::arg("x"), py::arg("others") = std::vector<Array>{}, py::arg("out").noconvert() = py::none(),
           py::arg("progress") = py::none())
      .def(
          "replace",
          [](fastsr::Session& s, const std::map<std::string, Array>& weights) { s.replace(to_weights(weights)); },
          py::arg("weights"))
      .def("upscale", &upscale, py::arg("given"), py::arg("out"), py::arg("progress") = py::none())
      .def("explain", &explain, py::arg("h"), py::arg("w"))
      .def(
          "flops",
          [](const fastsr::Session& s, int64_t h, int64_t w) { return fastsr::flops(s.program()->graph, h, w); },
          py::arg("h"), py::arg("w"))
      .def(
          "memory",
          [](const fastsr::Session& s, int64_t h, int64_t w) {
            const auto program = s.program();
            const fastsr::Ends ends{};
            return fastsr::bytes(*program, fastsr::choose_layout(*program, h, w, ends), ends);
          },
          py::arg("h"), py::arg("w"))
      .def(
          "tile",
          [](const fastsr::Session& s, int64_t h, int64_t w) {
            const fastsr::Layout l = fastsr::choose_layout(*s.program(), h, w, fastsr::Ends{});
            return py::make_tuple(l.tile_h, l.tile_w);
          },
          py::arg("h"), py::arg("w"))
      .def_property_readonly("radius", [](const fastsr::Session& s) { return s.program()->radius; })
      .def_property_readonly("scale", [](const fastsr::Session& s) { return s.program()->graph.scale; })
      .def_property_readonly("channels", [](const fastsr::Session& s) { return s.program()->graph.values[0].channels; })
      .def_property_readonly("threads", [](const fastsr::Session& s) { return s.program()->threads; })
      .def_property_readonly("isa", [](const fastsr::Session& s) { return s.program()->isa; });
  py::class_<fastsr::Graph>(m, "Graph")
      .def(py::init(&make_graph), py::arg("plan"), py::arg("shapes"), py::arg("channels") = py::none())
      .def("facts", &facts, py::arg("h"), py::arg("w"))
      .def("steps", &steps_of)
      .def(
          "flops", [](const fastsr::Graph& g, int64_t h, int64_t w) { return fastsr::flops(g, h, w); }, py::arg("h"),
          py::arg("w"))
      .def(
          "out_shape",
          [](const fastsr::Graph& g, int64_t h, int64_t w) {
            const fastsr::Extent e = g.extent(g.out(), h, w);
            return py::make_tuple(e.channels, e.height, e.width);
          },
          py::arg("h"), py::arg("w"))
      .def_property_readonly("radius", [](const fastsr::Graph& g) { return fastsr::radius(g); })
      .def_readonly("scale", &fastsr::Graph::scale);
}
