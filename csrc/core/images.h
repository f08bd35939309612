// SPDX-License-Identifier: Apache-2.0
// Images through a session: the source it reads, the sink it writes, and the colours that nobody sees.
#pragma once

#include <memory>
#include <vector>

#include "core/hidden.h"
#include "core/pixels.h"
#include "core/session.h"

namespace fastsr {

// For one caller at a time. An image that is alike the last one allocates nothing.
class Images {
 public:
  // Throws Error(kBadInput) where the network takes no images.
  explicit Images(std::shared_ptr<const Program> program);

  // Enlarges `in` into `out`. Whether what the network gave was finite; if not, `out` holds anything. Values are not
  // checked. Throws Error.
  bool run(Session& session, const Pixels& in, const Pixels& out, const Watch& watch = {},
           Executor& executor = process_pool());

  // Bytes that a run of `in` holds, both images among them.
  size_t memory(const Pixels& in) const;

 private:
  const Pixels& visible(const Pixels& in, Executor& executor);
  void bind(const Pixels& in, const Pixels& out);

  const std::shared_ptr<const Program> program_;
  const Domain domain_;
  // Of the last image.
  Pixels in_{}, out_{};
  std::unique_ptr<PixelSource> source_;
  std::unique_ptr<PixelSink> sink_;
  std::vector<const Source*> inputs_;
  // Of images with hidden colours.
  ColorSpread spread_;
  Block colors_;
  size_t colors_bytes_ = 0;
  Pixels visible_{};
};

}  // namespace fastsr
