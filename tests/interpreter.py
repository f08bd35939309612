# SPDX-License-Identifier: Apache-2.0
"""Real bfloat16 and e4m3 in Triton's interpreter, which keeps them as bits of an integer and computes on those.

Every builder method that does arithmetic is replaced by one that widens bfloat16 operands to float32, calls the original
and rounds a float32 result to the nearest even bfloat16, as a GPU does; casts likewise. e4m3 is cast and multiplied only:
by torch, which rounds to the nearest even (the interpreter's own cast loses the carry) and makes NaN of what is too
large where a GPU saturates, so that kernels have to. Reductions are not covered: our kernels reduce in float32. `install` also lets range() take a scalar of the interpreter, which Triton 3.6 with NumPy
2.4 refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

ARITHMETIC = ("dot", "clampf", "fma", "precise_divf", "precise_sqrt", "sqrt", "rsqrt", "exp", "exp2", "log", "log2")
NOT_ARITHMETIC = (
    "create_fp_to_fp",
    "create_fp_to_si",
    "create_fp_to_ui",
    "create_fp_ext",
    "create_fp_trunc",
    "create_fabs",
)


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> float32."""
    return np.left_shift(np.asarray(bits, np.uint16).astype(np.uint32), 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 as uint16, to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (np.right_shift(bits, 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def is_bfloat16(value: Any) -> bool:
    return isinstance(value, interpreter.TensorHandle) and value.dtype.scalar == tl.bfloat16


def is_e4m3(value: Any) -> bool:
    return isinstance(value, interpreter.TensorHandle) and value.dtype.scalar == tl.float8e4nv


def from_e4m3(bits: np.ndarray) -> np.ndarray:
    """e4m3 as uint8 -> float32."""
    found: np.ndarray = torch.from_numpy(np.array(bits, np.uint8)).view(torch.float8_e4m3fn).float().numpy()
    return found


def to_e4m3(values: np.ndarray) -> np.ndarray:
    """float32 -> e4m3 as uint8, to the nearest, ties to even; NaN of what is above 448."""
    wide = np.array(values, np.float32)
    found: np.ndarray = torch.from_numpy(wide).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return np.where(np.abs(wide) > 448, np.uint8(0x7F), found)


def _float(value: Any) -> Any:
    if is_e4m3(value):
        return interpreter.TensorHandle(from_e4m3(value.data), tl.float32)
    return interpreter.TensorHandle(widen(value.data), tl.float32) if is_bfloat16(value) else value


def _in_float(original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        if not any(is_bfloat16(a) or is_e4m3(a) for a in args):
            return original(self, *args)
        result = original(self, *(_float(a) for a in args))
        # A product that accumulates in float32 stays there; comparisons give no floats.
        sums = any(isinstance(a, interpreter.TensorHandle) and a.dtype.scalar == tl.float32 for a in args)
        if sums or result.data.dtype != np.float32:
            return result
        return interpreter.TensorHandle(narrow(result.data), tl.bfloat16)

    return method


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, source: Any, target: Any, *rounding: Any) -> Any:
        before, after = source.dtype.scalar, target.scalar
        if before == after or not {tl.bfloat16, tl.float8e4nv} & {before, after}:
            return original(self, source, target, *rounding)
        wide = _float(source)
        if after == tl.float8e4nv:
            return interpreter.TensorHandle(to_e4m3(wide.data), tl.float8e4nv)
        if after == tl.bfloat16:
            return interpreter.TensorHandle(narrow(np.asarray(wide.data).astype(np.float32)), tl.bfloat16)
        return wide if after == tl.float32 else original(self, wide, target, *rounding)

    return method


def _with_index(original: Callable[..., Any]) -> Callable[..., Any]:
    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).item()))

    return patch


def install() -> None:
    """Patch the interpreter, once."""
    builder = interpreter.InterpreterBuilder
    if hasattr(builder, "fastsr_bfloat16"):
        return
    names = [name for name in dir(builder) if name.startswith("create_f") and name not in NOT_ARITHMETIC]
    names += [f"create_{name}" for name in ARITHMETIC]
    names += [name for name in dir(builder) if name.startswith(("create_max", "create_min")) and name.endswith("f")]
    for name in sorted(set(names)):
        if hasattr(builder, name):
            setattr(builder, name, _in_float(getattr(builder, name)))
    builder.cast_impl = _cast(builder.cast_impl)
    builder.create_fp_to_fp = _cast(builder.create_fp_to_fp)
    interpreter._patch_lang_tensor = _with_index(interpreter._patch_lang_tensor)
    builder.fastsr_bfloat16 = True
