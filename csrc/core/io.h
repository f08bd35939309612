// SPDX-License-Identifier: Apache-2.0
// Where a run reads its inputs and writes its output: planes in memory, or packed pixels converted on the way.
#pragma once

#include <cstddef>

#include "core/tensor.h"

namespace fastsr {

// One input of a run. Called from many threads at once.
class Source {
 public:
  virtual ~Source() = default;
  // Fills every pixel of `to`; to.rect lies inside the image. A row may be written up to 16 floats past its end.
  virtual void read(const View& to) const = 0;
  // Bytes that the caller holds for it while the run goes on: they count against a memory limit.
  virtual size_t bytes() const { return 0; }
};

// The output of a run. Called from many threads at once, each time with another part of the image.
class Sink {
 public:
  virtual ~Sink() = default;
  // Where the output lies, if kernels may write it themselves as planes; else data is null and `write` is called.
  virtual View planes() const { return View{}; }
  // Bytes that `write` works in for a band of this size, or a smaller one.
  virtual size_t scratch_bytes(int64_t /*height*/, int64_t /*width*/) const { return 0; }
  // Takes a band of the network's output while it is in cache. `scratch` is 64-byte aligned.
  virtual void write(const View& /*band*/, void* /*scratch*/) {}
  virtual size_t bytes() const { return 0; }  // as a Source's
};

}  // namespace fastsr
