// SPDX-License-Identifier: Apache-2.0
// bfloat16 numbers and AMX's tile registers, for all kernels that use them.
#pragma once

#include "cpu/simd.h"

namespace fastsr {
namespace {

// The nearest bfloat16, ties to even.
uint16_t to_bfloat16(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#if defined(FASTSR_ISA_AMX)

constexpr int kTile = 256;  // floats of a tile: 16 rows of 64 bytes

// Shapes the tile registers of this thread for as long as it lives.
struct TileUnit {
  TileUnit() {
    struct alignas(64) {
      uint8_t palette = 1, row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
  }
  ~TileUnit() { _tile_release(); }
};

#endif

}  // namespace
}  // namespace fastsr
