# SPDX-License-Identifier: Apache-2.0
"""Other runtimes as engines: ONNX Runtime, OpenVINO, ncnn and MNN, for plans of the layers that they have.

The network is written in each runtime's own format from the plan, with fixed shapes, as its users would deploy it; its
graph optimiser, its Winograd and its layouts are its own. A bicubic step is fastsr's (about 1 ms at 1080p), its image a
second input. fp32 unless asked: OpenVINO and ncnn would otherwise take bfloat16 or half floats where the CPU has them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.errors import DeviceError
from fastsr.export.layers import Layer, layers
from fastsr.export.onnx import onnx_model
from fastsr.plan import INPUT, OUTPUT, Plan

CURVES = {"silu": "Swish", "sigmoid": "Sigmoid", "tanh": "TanH"}
Run = Callable[[np.ndarray], np.ndarray]
Images = Mapping[str, np.ndarray]  # name -> [C, H, W]
Network = Callable[[Images], np.ndarray]  # [C', H', W'], shapes fixed
Make = Callable[[Sequence[Layer], Mapping[str, tuple[int, ...]], tuple[int, ...], int, str], Network]


def prepare(name: str, plan: Plan, weights: Mapping[str, np.ndarray], threads: int, precision: str = "fp32") -> Run:
    """The engine's function. Raises DeviceError for a plan with other ops or a border it does not have."""
    make: Make = {"onnxruntime": _onnxruntime, "openvino": _openvino, "ncnn": _ncnn, "mnn": _mnn}[name]
    steps = list(plan.steps)
    bicubic: dict[str, int] = {}
    if steps[0].op == "resize_bicubic" and steps[0].inputs == (INPUT,):
        step = steps.pop(0)
        bicubic[step.out] = int(step.params["scale"])
    network = layers(steps, weights)
    if not network:
        raise DeviceError(f"engine '{name}' has no network to run")
    read = {value for layer in network for value in layer.inputs}
    networks: dict[tuple[int, ...], Network] = {}

    def run(x: np.ndarray) -> np.ndarray:
        images = {INPUT: np.ascontiguousarray(x)} if INPUT in read else {}
        for value, scale in bicubic.items():
            images[value] = _core.resize_bicubic(np.ascontiguousarray(x), x.shape[1] * scale, x.shape[2] * scale)
        if x.shape not in networks:
            out = (plan.channels, x.shape[1] * plan.scale, x.shape[2] * plan.scale)
            shapes = {key: value.shape for key, value in images.items()}
            networks[x.shape] = make(network, shapes, out, threads, precision)
        return networks[x.shape](images)

    return run


def _onnxruntime(
    network: Sequence[Layer],
    shapes: Mapping[str, tuple[int, ...]],
    out: tuple[int, ...],
    threads: int,
    precision: str,
) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        onnx_model(network, shapes, out), options, providers=["CPUExecutionProvider"]
    )

    def run(images: Images) -> np.ndarray:
        found: np.ndarray = session.run([OUTPUT], {name: x[None] for name, x in images.items()})[0][0]
        return found

    return run


def _openvino(
    network: Sequence[Layer],
    shapes: Mapping[str, tuple[int, ...]],
    out: tuple[int, ...],
    threads: int,
    precision: str,
) -> Network:
    import openvino

    core = openvino.Core()
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(onnx_model(network, shapes, out)), "CPU", options)
    request = compiled.create_infer_request()

    def run(images: Images) -> np.ndarray:
        found: np.ndarray = request.infer([x[None] for x in images.values()], share_outputs=True)[0][0]
        return found

    return run


def ncnn_model(network: Sequence[Layer], inputs: Sequence[str]) -> tuple[str, bytes]:
    """The network as ncnn's .param and .bin. Raises DeviceError for a symmetric border, which ncnn lacks."""
    readers: dict[str, int] = {}
    for layer in network:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    lines: list[str] = []
    blobs = 0
    data: list[bytes] = []
    waiting: dict[str, list[str]] = {}

    def emit(kind: str, name: str, ins: Sequence[str], outs: Sequence[str], *params: str) -> None:
        nonlocal blobs
        blobs += len(outs)
        lines.append(" ".join([kind, name, str(len(ins)), str(len(outs)), *ins, *outs, *params]))

    def made(name: str) -> None:
        """A blob has one reader in ncnn: copies for more."""
        count = readers.get(name, 0)
        waiting[name] = [name] if count <= 1 else [f"{name}_{k}" for k in range(count)]
        if count > 1:
            emit("Split", f"split_{name}", [name], waiting[name])

    for name in inputs:
        emit("Input", name, [], [name])
        made(name)
    for i, layer in enumerate(network):
        given = [waiting[name].pop(0) for name in layer.inputs]
        factor = layer.params.get("scale", 1)
        if layer.kind == "conv":
            w = layer.arrays["w"]
            r = w.shape[-1] // 2
            pad, border = r, layer.params["border"]
            if r and border == "symmetric":
                raise DeviceError("engine 'ncnn' has no symmetric border")
            if r and border == "replicate":
                emit("Padding", f"pad{i}", given, [f"padded{i}"], f"0={r}", f"1={r}", f"2={r}", f"3={r}", "4=1")
                given, pad = [f"padded{i}"], 0
            shape = (f"0={w.shape[0]}", f"1={w.shape[-1]}", f"4={pad}", f"5={int('b' in layer.arrays)}", f"6={w.size}")
            emit("Convolution", f"conv{i}", given, [layer.out], *shape)
            data += [b"\0\0\0\0", w.tobytes(), *(layer.arrays[k].tobytes() for k in ("b",) if k in layer.arrays)]
        elif layer.kind == "deconv":
            w = np.ascontiguousarray(layer.arrays["w"].transpose(1, 0, 2, 3))
            shape = (f"0={w.shape[0]}", f"1={factor}", f"3={factor}", f"5={int('b' in layer.arrays)}", f"6={w.size}")
            emit("Deconvolution", f"deconv{i}", given, [layer.out], *shape)
            data += [b"\0\0\0\0", w.tobytes(), *(layer.arrays[k].tobytes() for k in ("b",) if k in layer.arrays)]
        elif layer.kind == "activate":
            kind = str(layer.params["activation"])
            if "slopes" in layer.arrays:
                emit("PReLU", f"act{i}", given, [layer.out], f"0={len(layer.arrays['slopes'])}")
                data.append(layer.arrays["slopes"].tobytes())
            elif kind in CURVES:
                emit(CURVES[kind], f"act{i}", given, [layer.out])
            else:
                emit("ReLU", f"act{i}", given, [layer.out], f"0={layer.params['slope']}")
        elif layer.kind == "add":
            emit("BinaryOp", f"add{i}", given, [layer.out], "0=0")
        elif layer.kind == "multiply":
            emit("BinaryOp", f"multiply{i}", given, [layer.out], "0=2")
        elif layer.kind == "less":
            emit("BinaryOp", f"less{i}", given, [layer.out], "0=1", "1=1", f"2={layer.params['value']}")
        elif layer.kind == "join":
            emit("Concat", f"join{i}", given, [layer.out], "0=0")
        elif layer.kind == "affine":
            emit("Scale", f"affine{i}", given, [layer.out], f"0={len(layer.arrays['shift'])}", "1=1")
            data += [layer.arrays["scale"].tobytes(), layer.arrays["shift"].tobytes()]
        elif layer.kind == "nearest":
            emit("Interp", f"near{i}", given, [layer.out], "0=1", f"1={float(factor)}", f"2={float(factor)}")
        elif layer.kind == "bicubic":
            raise DeviceError("engine 'ncnn' has no bicubic of MATLAB's")
        else:
            emit("PixelShuffle", f"shuffle{i}", given, [layer.out], f"0={factor}")
        made(layer.out)
    return "\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n", b"".join(data)


def _ncnn(
    network: Sequence[Layer],
    shapes: Mapping[str, tuple[int, ...]],
    out: tuple[int, ...],
    threads: int,
    precision: str,
) -> Network:
    import ncnn

    text, data = ncnn_model(network, list(shapes))
    net = ncnn.Net()
    net.opt.num_threads = threads
    for half in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, half, half == "use_bf16_storage" and precision == "bf16")
    with tempfile.TemporaryDirectory() as folder:
        param, weight = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(text)
        weight.write_bytes(data)
        if net.load_param(str(param)) or net.load_model(str(weight)):
            raise DeviceError("engine 'ncnn' does not read the network written for it")

    def run(images: Images) -> np.ndarray:
        extractor = net.create_extractor()
        for name, x in images.items():
            extractor.input(name, ncnn.Mat(x).clone())  # a layer may write over its input
        code, found = extractor.extract(OUTPUT)
        if code:
            raise DeviceError(f"engine 'ncnn' failed with code {code}")
        return np.array(found)

    return run


def _mnn(
    network: Sequence[Layer],
    shapes: Mapping[str, tuple[int, ...]],
    out: tuple[int, ...],
    threads: int,
    precision: str,
) -> Network:
    with _no_output():
        # Its converter without MNN.tools, whose import installs packages that report on the user.
        import _tools
        from MNN import expr, nn

        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / "net.onnx", Path(folder) / "net.mnn"
            given.write_bytes(onnx_model(network, shapes, out))
            names = ["--modelFile", str(given), "--MNNModel", str(made), "--bizCode", "fastsr"]
            _tools.mnnconvert(["mnnconvert", "-f", "ONNX", *names])
            options = {"backend": "CPU", "precision": "high", "numThread": threads}
            runtime = nn.create_runtime_manager((options,))
            module = nn.load_module_from_file(str(made), list(shapes), [OUTPUT], runtime_manager=runtime)
    given_to = {name: expr.placeholder([1, *shape], expr.NCHW) for name, shape in shapes.items()}

    def run(images: Images) -> np.ndarray:
        for name, x in images.items():
            given_to[name].write(np.ascontiguousarray(x[None]))
        found = module.forward(list(given_to.values()))[0]
        out: np.ndarray = np.array(expr.convert(found, expr.NCHW).read())[0]
        return out

    return run


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """What libraries write to standard output themselves goes nowhere."""
    kept = os.dup(1)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
