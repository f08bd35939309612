# SPDX-License-Identifier: Apache-2.0
"""Triton kernels, one file per op: `supports`, `pack` once at load, `launch` on device tensors.

    supports(params, shapes, dtype) -> None, or the reason why not
    pack(weights, params, dtype, device) -> Packed
    launch(packed, *inputs [N, C, H, W], config=None, **params) -> [N, C', H', W']

Values of at most 4 channels are images and stay fp32; wider ones are channels_last in the working dtype. `pack` finds
"tf32" in `params` where fp32 products may be rounded to tf32, and "fp8" where products may be of e4m3: the step's input on
a sample image [1, C, h, w] fp32, from which scales are taken. `conv_gemm` and `conv_image` are convolutions that several
ops share, `shallow` is a run of conv2d steps in one kernel.
"""
