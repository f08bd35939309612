// SPDX-License-Identifier: Apache-2.0
// The extension module: thin bindings, no logic. Errors become the classes of fastsr/errors.py.
#include <pybind11/pybind11.h>

#include "core/status.h"

namespace py = pybind11;

void register_session(py::module_& m);
void register_machine(py::module_& m);
void register_model(py::module_& m);
void register_pixels(py::module_& m);

static void translate(std::exception_ptr p) {
  try {
    if (p) std::rethrow_exception(p);
  } catch (const fastsr::Error& e) {
    const char* name = "FastsrError";
    switch (e.status()) {
      case fastsr::Status::kBadInput:
        name = "InputError";
        break;
      case fastsr::Status::kBadModel:
        name = "ModelError";
        break;
      case fastsr::Status::kLimit:
        name = "LimitError";
        break;
      case fastsr::Status::kDevice:
        name = "DeviceError";
        break;
      case fastsr::Status::kStopped:
        break;
    }
    const py::object type = py::module_::import("fastsr.errors").attr(name);
    PyErr_SetString(type.ptr(), e.what());
  }
}

PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ core: model files, plans, kernels, threads.";
  py::register_exception_translator(translate);
  register_session(m);
  register_machine(m);
  register_model(m);
  register_pixels(m);
}
