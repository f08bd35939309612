# SPDX-License-Identifier: Apache-2.0
"""One file per op: its formula and its torch reference, the slow twin every kernel is held against."""

OPS = (
    "resize_bicubic",
    "conv2d",
    "anchored_regression",
    "pconv_block",
    "upsample_residual",
    "cista",
    "pixel_shuffle",
    "scale_shift",
)
"""The closed list, in reading order; `fastsr._core.ops()` must equal it (tests/test_tree.py)."""
