// SPDX-License-Identifier: Apache-2.0
// Numpy arrays as the core's pixels.
#pragma once

#include <pybind11/numpy.h>

#include <vector>

#include "core/pixels.h"
#include "core/status.h"

// Pixels in the memory of arrays, which it keeps.
struct PixelArray {
  fastsr::Pixels pixels{};
  std::vector<pybind11::array> arrays;
  bool channels_first = false, flat = false;  // [C, H, W]; [H, W]

  void check_writeable() const {
    for (const pybind11::array& array : arrays)
      if (!array.writeable()) fastsr::fail(fastsr::Status::kBadInput, "the output cannot be written");
  }
};
