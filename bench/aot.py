# SPDX-License-Identifier: Apache-2.0
"""Compile the Triton kernels for GPUs that are not here: registers, spills, shared memory, matrix instructions.

    python bench/aot.py --arch 80 90 100                defaults of all kernels in fp16
    python bench/aot.py --all --dtype fp16 bf16 fp32    every tuning candidate as well

Prints a JSON row per kernel, configuration and target. Launches are recorded instead of made, so no driver is needed; nor
may TRITON_INTERPRET be set. tests/kernels/test_aot.py runs the defaults.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DTYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "float16"}
SHARED = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
"""bytes of shared memory a program may have"""
MATRIX = ("wgmma.mma_async", "tcgen05.mma", "mma.sync")


def weight(*shape: int) -> Any:
    import torch

    return torch.rand(shape)


def cases(dtype: Any, precision: str) -> Iterator[tuple[str, Any, Any, list[Any], dict[str, Any]]]:
    """(label, module, packed, inputs, params) of what the families launch, at sizes divisible by 16."""
    import torch

    from fastsr.testing import anchored_weights

    def kernel(name: str) -> Any:
        return importlib.import_module(f"fastsr.kernels.triton.{name}")

    def x(channels: int, s: int = 1) -> Any:
        kind = torch.float32 if channels <= 4 else dtype
        return torch.empty(1, 96 * s, 160 * s, channels, dtype=kind).permute(0, 3, 1, 2)

    cpu = torch.device("cpu")
    more: dict[str, Any] = {"tf32": True} if precision == "tf32" else {}

    def sample(channels: int) -> dict[str, Any]:
        return {"fp8": torch.rand(1, channels, 8, 8)} if precision == "fp8" else {}

    def conv(co: int, ci: int, k: int) -> dict[str, Any]:
        return {"w": weight(co, ci, k, k), "b": weight(co)}

    def prelu(co: int, ci: int) -> dict[str, Any]:
        return conv(co, ci, 3) | {"slopes": weight(co)}

    m = kernel("conv2d")
    for label, w, inputs, params in (
        ("conv2d 64-32 5x5", conv(32, 64, 5), [x(64)], {"border": "replicate", "activation": "relu"}),
        ("conv2d 1-64 9x9", conv(64, 1, 9), [x(1)], {"border": "replicate", "activation": "relu"}),
        ("conv2d 3-128 1x1", conv(128, 3, 1), [x(3)], {}),
        ("conv2d 128-3 1x1", conv(3, 128, 1), [x(128), x(3)], {"input_activation": "relu"}),
        ("conv2d 64-1 3x3", conv(1, 64, 3), [x(64), x(1)], {"border": "symmetric"}),
        ("conv2d 48-48 3x3 silu", conv(48, 48, 3), [x(48)], {"activation": "silu"}),
        ("conv2d 48-48 3x3 gate", conv(48, 48, 3), [x(48), x(48)], {"gate": True}),
        ("conv2d 4 x 48-48 1x1", conv(48, 192, 1), [x(48)] * 4, {"join": 4}),
        ("conv2d 64-64 3x3 slopes", prelu(64, 64), [x(64)], {"activation": "leaky_relu"}),
        ("conv2d 3-64 3x3 slopes", prelu(64, 3), [x(3)], {"activation": "leaky_relu"}),
    ):
        yield label, m, m.pack(w, more, dtype, cpu), inputs, params
    m = kernel("cista")
    yield (
        "cista 128-256",
        m,
        m.pack(
            {"w": weight(256, 128, 3, 3), "s": weight(256, 256, 3, 3)}, {**more, **sample(128), "steps": 3}, dtype, cpu
        ),
        [x(128)],
        {"steps": 3},
    )
    m = kernel("pconv_block")
    w = {"w1": weight(64, 128, 1, 1), "b1": weight(64), "w3": weight(128, 64, 3, 3), "b3": weight(128)}
    yield (
        "pconv_block",
        m,
        m.pack(w, {**more, **sample(128), "activation": "relu"}, dtype, cpu),
        [x(128)],
        {"activation": "relu"},
    )
    m = kernel("upsample_residual")
    w = {"w": weight(128, 128, 3, 3), "b": weight(128)}
    yield "upsample_residual", m, m.pack(w, more, dtype, cpu), [x(128)], {"scale": 3}
    m = kernel("anchored_regression")
    w = {name: torch.from_numpy(value) for name, value in anchored_weights(3, 9, 30, 1024, 1).items()}
    yield "anchored_regression", m, m.pack(w, more, dtype, cpu), [x(1), x(1, 3)], {"scale": 3}
    m = kernel("shallow")
    relu: dict[str, Any] = {"border": "replicate", "activation": "relu", **more}
    last: dict[str, Any] = {"border": "replicate", **more}
    for label, run in (
        ("shallow 9-1-5", [conv(64, 1, 9), conv(32, 64, 1), conv(1, 32, 5)]),
        ("shallow 5-3", [conv(64, 1, 5), conv(1, 64, 3)]),
        ("shallow 9-1", [conv(64, 1, 9), conv(32, 64, 1)]),
    ):
        params = [relu] * (len(run) - 1) + [relu if label.endswith("9-1") else last]
        if m.supports(params, [{r: tuple(v.shape) for r, v in w.items()} for w in run], dtype) is None:
            yield label, m, m.pack(run, params, dtype, cpu), [x(1)], {}
    for name, inputs, scale in (("resize_bicubic", [x(1)], {"scale": 3}), ("pixel_shuffle", [x(256)], {"scale": 2})):
        m = kernel(name)
        yield name, m, m.pack({}, scale, dtype, cpu), inputs, scale
    m = kernel("color")
    colors = m.pack([[0.0] * 4] * 3, [[0.0] * 4] * 3, 1, 3, cpu)
    for name, levels in (("8 bit", torch.uint8), ("floats", torch.float32)):
        pixels, out = (torch.empty(1, 96 * s, 160 * s, 4, dtype=levels) for s in (1, 3))
        bad, rest = torch.empty(2, dtype=torch.int32), torch.empty(1, 3, 96, 160)
        yield f"color split, {name}", SimpleNamespace(launch=m.split), colors, [pixels, bad, 0.0, 1.0], {}
        yield f"color join, {name}", SimpleNamespace(launch=m.join), colors, [x(1, 3), rest, bad, out], {}
    m = kernel("scale_shift")
    yield "scale_shift", m, m.pack({"shift": weight(3)}, {}, dtype, cpu), [x(3)], {}


def recorded(launch: Any) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """(kernel, arguments, options) of the launches that `launch` would make."""
    from unittest import mock

    from triton.runtime.jit import JITFunction

    found: list[Any] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append((self, args, options))

    with mock.patch.object(JITFunction, "run", run):
        launch()
    return found


def compiled(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], arch: int) -> dict[str, Any]:
    """What the compiler makes of a launch, specialised as at run time."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    pointers |= {torch.int32: "*i32", torch.uint8: "*u8", torch.float8_e4m3fn: "*fp8e4nv"}
    signature, constants, attributes = {}, {}, {}
    for i, (parameter, value) in enumerate(zip(kernel.params, args, strict=True)):
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = pointers[value.dtype]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
            continue
        else:
            signature[parameter.name] = "i32" if abs(value) < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(made.asm["cubin"])
        f.flush()
        command = [str(tools / "cuobjdump"), "-res-usage", f.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert usage is not None, text
    return {
        "registers": int(usage[1]),
        "stack": int(usage[2]),
        "shared": int(made.metadata.shared),
        "matrix": [name for name in MATRIX if name in made.asm["ptx"]],
        "e4m3": bool(re.search(r"mma\S*\.e4m3|kind::f8f6f4", made.asm["ptx"])),
    }


def rows(arch: int, precision: str, everything: bool, only: list[str]) -> Iterator[dict[str, Any]]:
    import torch

    common = importlib.import_module("fastsr.kernels.triton.common")
    common.STANDS_FOR = arch
    dtype = getattr(torch, DTYPES[precision])
    for label, module, packed, inputs, params in cases(dtype, precision):
        if not any(part in label for part in only):
            continue
        found = module.candidates(packed, torch.device("cpu")) if hasattr(module, "candidates") else ()
        configs = list(found) or [None]
        seen = set()
        for config in configs if everything else configs[:1]:
            how = {"config": config} if config else {}

            def launch(how: dict[str, Any] = how) -> None:
                module.launch(packed, *inputs, **params, **how)  # noqa: B023

            for kernel, args, options in recorded(launch):
                constants = tuple(a.dtype if isinstance(a, torch.Tensor) else a for a in args)
                if (kernel.__name__, constants, str(options)) in seen:
                    continue
                seen.add((kernel.__name__, constants, str(options)))
                about = {"arch": arch, "precision": precision, "case": label, "kernel": kernel.__name__}
                place = {"default": config == configs[0], "config": str(config), "limit": SHARED[arch]}
                yield about | place | compiled(kernel, args, options, arch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100], choices=sorted(SHARED))
    parser.add_argument("--dtype", nargs="+", default=["fp16"], choices=sorted(DTYPES))
    parser.add_argument("--all", action="store_true", help="every tuning candidate")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose label holds one of these")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        sys.exit("unset TRITON_INTERPRET: the interpreter compiles nothing")
    if "fp8" in options.dtype and min(options.arch) < 89:
        parser.error("fp8 is for sm_89 and later")
    for arch in options.arch:
        for precision in options.dtype:
            for row in rows(arch, precision, options.all, options.only):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
