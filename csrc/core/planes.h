// SPDX-License-Identifier: Apache-2.0
// Dense planes in the caller's memory as a run's inputs and output.
#pragma once

#include "core/io.h"

namespace fastsr {

class PlaneSource : public Source {
 public:
  PlaneSource(const float* data, const Extent& e)  // only ever read: the view type is shared with outputs
      : view_{const_cast<float*>(data), e.height * e.width, e.width, e.channels, {0, 0, e.height, e.width}} {}
  void read(const View& to) const override;

 private:
  View view_;
};

class PlaneSink : public Sink {
 public:
  PlaneSink(float* data, const Extent& e)
      : view_{data, e.height * e.width, e.width, e.channels, {0, 0, e.height, e.width}} {}
  View planes() const override { return view_; }

 private:
  View view_;
};

}  // namespace fastsr
