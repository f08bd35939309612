# SPDX-License-Identifier: Apache-2.0
"""The fused ops in CUDA C++: a kernel `<op>.cu` and its launcher `<op>.py` each.

A launcher has
    supports(params, shapes, dtype) -> None, or the reason why not
    pack(weights, params, dtype, device) -> Packed, once at load
    launch(packed, *inputs, **params) -> Tensor, on torch's current stream, without waiting for it

The contract is that of fastsr.kernels.triton, but that `dtype` is the type of the inputs: of anchored_regression's images
fp32. Failures raise `KernelError`. `runtime.device` refuses GPUs that are too old.
"""
