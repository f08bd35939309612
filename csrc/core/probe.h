// SPDX-License-Identifier: Apache-2.0
// How fast this machine is right now: the figure that stands beside every CPU benchmark.
#pragma once

namespace fastsr {

// fp32 FMA rate in GFLOP/s of `threads` threads (0: default_threads()) over about `seconds`, best ISA.
double peak_gflops(int threads, double seconds);

}  // namespace fastsr
