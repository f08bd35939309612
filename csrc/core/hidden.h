// SPDX-License-Identifier: Apache-2.0
// Colours under alpha: what nobody sees may not bleed into what is seen, and is not lost either.
//
// A network mixes neighbours, hidden ones too: a white disc on transparent black gets a dark rim. So hidden pixels within
// its reach take the colours of the visible ones beside them first, ring by ring. Where the result is transparent, it holds
// the hidden colours as they were, each pixel repeated: no network is spent on them, and tiles agree.
#pragma once

#include <vector>

#include "core/memory.h"
#include "core/pixels.h"

namespace fastsr {

// Pixels beyond a network's radius that the bicubic of chroma and alpha reaches.
constexpr int64_t kPixelReach = 3;

bool has_alpha(Colors colors);

// Whether alpha is 0 anywhere.
bool has_hidden(const Pixels& pixels, int threads, Executor& executor = process_pool());

// Works in memory that it keeps.
class ColorSpread {
 public:
  // Copies `from` to `to`, of the same kind, where hidden pixels up to `reach` from a visible one hold the mean of their
  // neighbours nearer to it. Not for YUV.
  void operator()(const Pixels& from, const Pixels& to, int64_t reach);
  size_t bytes() const;

 private:
  std::vector<unsigned char> marks_;
  std::vector<int64_t> ring_, next_;
};

// Where `out` is transparent, it gets the colours of `in`, each pixel repeated.
void keep_hidden(const Pixels& in, const Pixels& out, int threads, Executor& executor = process_pool());

}  // namespace fastsr
