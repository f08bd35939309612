// SPDX-License-Identifier: Apache-2.0
// What follows a convolution of cista, in cista.cu and cista_wgmma.cu.
#pragma once

#include "conv_tile.cuh"

namespace fastsr {

struct CistaOutput {
  const u16* fixed;  // [N, H, W, channels], null in the first launch
  u16* out;          // [N, H, W, channels]
  u16* out_fixed;    // [N, H, W, channels], null in all but the first launch
  int channels;

  // relu(sum + fixed) of kRun channels of a pixel; in the first launch the sum is also what is stored as fixed.
  template <class T, int kRun>
  __device__ __forceinline__ void store(long long pixel, int channel, float (&values)[kRun]) const {
    constexpr int kWords = kRun / 2;
    const long long to = pixel * channels + channel;
    if (fixed) {
      const Words<kWords> added = load_words<kWords>(fixed + to);
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        values[2 * j] += T::low(added.word[j]);
        values[2 * j + 1] += T::high(added.word[j]);
      }
    } else {
      store_words(out_fixed + to, pack_run<T>(values));
    }
#pragma unroll
    for (int j = 0; j < kRun; ++j) values[j] = values[j] > 0.0f ? values[j] : 0.0f;
    store_words(out + to, pack_run<T>(values));
  }
};

// `store` as for_each_run calls it. A functor: NVRTC before 13.1 takes a lambda with an `auto` parameter for a function of
// the host.
template <class T>
struct CistaFinish {
  const CistaOutput& output;
  int first_channel;

  template <int kRun>
  __device__ __forceinline__ void operator()(long long pixel, int channel, float (&values)[kRun]) const {
    output.template store<T>(pixel, first_channel + channel, values);
  }
};

}  // namespace fastsr
