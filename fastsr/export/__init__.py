# SPDX-License-Identifier: Apache-2.0
"""Models -> files that other runtimes read. Only ONNX, by `fastsr export` or `export(...)`; needs the package onnx."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from fastsr import executors, modelfile
from fastsr.errors import DeviceError, InputError, ModelError
from fastsr.export.layers import layers
from fastsr.modelfile import ModelFile
from fastsr.plan import INPUT, OUTPUT
from fastsr.upscaler import find

AGREE = 1e-4
"""largest difference of values between ONNX Runtime and fastsr, of outputs of order 1"""


def export(name_or_path: str | Path, out: str | Path, scale: int | None = None) -> float | None:
    """Write a model, or a checkpoint that `fastsr.load` reads, as ONNX for images of any size and number.

    Input `lr` [n, C, h, w], Y or RGB in [0, 1] as float32; output `out` [n, C, h * scale, w * scale], not clipped. Where
    ONNX Runtime is installed the file is run by it and compared with fastsr's CPU executor before it is written; returns the largest
    difference of an output, or None. Raises what `fastsr.load` raises, DeviceError where onnx is missing, ModelError for a
    network that ONNX has no layers for (ANNet) or that does not agree, OutputError when the file cannot be written.

    >>> export("span_x4", "span_x4.onnx")
    """
    if Path(out).suffix.lower() != ".onnx":
        raise InputError(f"{out}: files end in .onnx")
    if importlib.util.find_spec("onnx") is None:
        raise DeviceError("exporting needs onnx: pip install onnx onnxruntime")
    model = find(name_or_path, scale)
    raw = as_onnx(model)
    difference = compare(model, raw) if importlib.util.find_spec("onnxruntime") else None
    modelfile.put(Path(out), raw)
    return difference


def as_onnx(model: ModelFile) -> bytes:
    """The file's bytes. Raises ModelError for a plan that ONNX has no layers for."""
    from fastsr.export.onnx import onnx_model

    plan = model.plan
    about = {key: model.meta[key] for key in ("name", "arch", "licence", "domain", "scale")}
    try:
        return onnx_model(layers(plan.steps, model.weights), {INPUT: (plan.channels,)}, (plan.channels,), about)
    except DeviceError as e:
        raise ModelError(f"model '{model.name}' cannot be exported: {e}") from None


def compare(model: ModelFile, raw: bytes) -> float:
    """The largest difference between ONNX Runtime and fastsr on a smooth image. Raises ModelError where they disagree."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    run = executors.get("cpu").prepare(model.plan, model.weights).run
    largest = 0.0
    for h, w in ((24, 20), (17, 32)):
        x = 0.5 + 0.3 * np.sin(np.arange(model.plan.channels * h * w) / 7).reshape(model.plan.channels, h, w)
        x = x.astype(np.float32)
        expected, found = run(x), session.run([OUTPUT], {INPUT: x[None]})[0][0]
        difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
        largest = max(largest, difference / max(1.0, float(np.abs(expected).max())))
    if not largest <= AGREE:
        raise ModelError(f"model '{model.name}': ONNX Runtime gives values that differ by {largest:.2g}: not written")
    return largest
