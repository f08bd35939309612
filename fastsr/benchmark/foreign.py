# SPDX-License-Identifier: Apache-2.0
"""Other runtimes as engines: ONNX Runtime, OpenVINO and ncnn, for plans of convolutions after a bicubic step.

The network is written in each runtime's own format from the plan, with fixed shapes, as its users would deploy it; its
graph optimiser, its Winograd and its layouts are its own. The bicubic step before it is fastsr's (about 1 ms at 1080p).
fp32 everywhere: OpenVINO and ncnn would otherwise take bfloat16 or half floats where the CPU has them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.errors import DeviceError
from fastsr.plan import INPUT, OUTPUT, Plan, Step

Run = Callable[[np.ndarray], np.ndarray]
Network = Callable[[np.ndarray], np.ndarray]  # [C, H, W] -> [C', H, W], shapes fixed
Make = Callable[[Sequence[Step], Mapping[str, np.ndarray], tuple[int, ...], int], Network]


def prepare(name: str, plan: Plan, weights: Mapping[str, np.ndarray], threads: int) -> Run:
    """The engine's function. Raises DeviceError for a plan with other ops or a border it does not have."""
    make: Make = {"onnxruntime": _onnxruntime, "openvino": _openvino, "ncnn": _ncnn}[name]
    steps = list(plan.steps)
    scale = 0
    if steps[0].op == "resize_bicubic" and steps[0].inputs == (INPUT,):
        scale = int(steps[0].params["scale"])
        first = steps.pop(0).out
        steps = [_renamed(step, first) for step in steps]
    other = sorted({step.op for step in steps} - {"conv2d"})
    if other or not steps:
        raise DeviceError(f"engine '{name}' has no {', '.join(other) or 'network to run'}")
    arrays = {key: np.ascontiguousarray(value, np.float32) for key, value in weights.items()}
    networks: dict[tuple[int, ...], Network] = {}

    def run(x: np.ndarray) -> np.ndarray:
        if scale:
            x = _core.resize_bicubic(np.ascontiguousarray(x), x.shape[1] * scale, x.shape[2] * scale)
        if x.shape not in networks:
            networks[x.shape] = make(steps, arrays, x.shape, threads)
        return networks[x.shape](x)

    return run


def _renamed(step: Step, first: str) -> Step:
    inputs = tuple(INPUT if name == first else name for name in step.inputs)
    return Step(step.op, inputs, step.out, step.weights, step.params)


def onnx_model(steps: Sequence[Step], weights: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> bytes:
    """The network as an ONNX file: Pad or Gather for the border, Conv, Relu or LeakyRelu, Add."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants = [], []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    for i, step in enumerate(steps):
        w = weights[step.weights["w"]]
        r = w.shape[-1] // 2
        x, pads = step.inputs[0], [0, 0, 0, 0]
        border = str(step.params.get("border", "zero"))
        if r and border == "zero":
            pads = [r, r, r, r]
        elif r and border == "replicate":
            sizes = constant(f"pads{i}", np.array([0, 0, r, r, 0, 0, r, r], np.int64))
            nodes.append(helper.make_node("Pad", [x, sizes], [f"padded{i}"], mode="edge"))
            x = f"padded{i}"
        elif r:
            for axis, n in ((2, shape[1]), (3, shape[2])):
                index = constant(f"index{i}_{axis}", np.pad(np.arange(n), r, mode="symmetric").astype(np.int64))
                nodes.append(helper.make_node("Gather", [x, index], [f"padded{i}_{axis}"], axis=axis))
                x = f"padded{i}_{axis}"
        inputs = [x, constant(f"w{i}", w)]
        if "b" in step.weights:
            inputs.append(constant(f"b{i}", weights[step.weights["b"]]))
        last = f"conv{i}"
        nodes.append(helper.make_node("Conv", inputs, [last], pads=pads))
        activation = str(step.params.get("activation", "none"))
        if activation != "none":
            extra: dict[str, Any] = {"alpha": float(step.params["slope"])} if activation == "leaky_relu" else {}
            kind = "LeakyRelu" if activation == "leaky_relu" else "Relu"
            nodes.append(helper.make_node(kind, [last], [f"act{i}"], **extra))
            last = f"act{i}"
        if len(step.inputs) > 1:
            nodes.append(helper.make_node("Add", [last, step.inputs[1]], [f"sum{i}"]))
            last = f"sum{i}"
        nodes.append(helper.make_node("Identity", [last], [step.out]))
    channels = weights[steps[-1].weights["w"]].shape[0]
    graph = helper.make_graph(
        nodes,
        "plan",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, *shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, channels, *shape[1:]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found: bytes = model.SerializeToString()
    return found


def _onnxruntime(
    steps: Sequence[Step], weights: Mapping[str, np.ndarray], shape: tuple[int, ...], threads: int
) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        onnx_model(steps, weights, shape), options, providers=["CPUExecutionProvider"]
    )

    def run(x: np.ndarray) -> np.ndarray:
        out: np.ndarray = session.run([OUTPUT], {INPUT: x[None]})[0][0]
        return out

    return run


def _openvino(
    steps: Sequence[Step], weights: Mapping[str, np.ndarray], shape: tuple[int, ...], threads: int
) -> Network:
    import openvino

    core = openvino.Core()
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(onnx_model(steps, weights, shape)), "CPU", options)
    request = compiled.create_infer_request()

    def run(x: np.ndarray) -> np.ndarray:
        out: np.ndarray = request.infer([x[None]], share_outputs=True)[0][0]
        return out

    return run


def ncnn_model(steps: Sequence[Step], weights: Mapping[str, np.ndarray]) -> tuple[str, bytes]:
    """The network as ncnn's .param and .bin. Raises DeviceError for a symmetric border, which ncnn lacks."""
    readers: dict[str, int] = {}
    for step in steps:
        for name in step.inputs:
            readers[name] = readers.get(name, 0) + 1
    lines: list[str] = []
    blobs = 0
    data = b""
    waiting: dict[str, list[str]] = {}

    def layer(kind: str, name: str, ins: Sequence[str], outs: Sequence[str], *params: str) -> None:
        nonlocal blobs
        blobs += len(outs)
        lines.append(" ".join([kind, name, str(len(ins)), str(len(outs)), *ins, *outs, *params]))

    def made(name: str) -> None:
        """A blob has one reader in ncnn: copies for more."""
        count = readers.get(name, 0)
        waiting[name] = [name] if count <= 1 else [f"{name}_{k}" for k in range(count)]
        if count > 1:
            layer("Split", f"split_{name}", [name], waiting[name])

    layer("Input", INPUT, [], [INPUT])
    made(INPUT)
    for i, step in enumerate(steps):
        w = weights[step.weights["w"]]
        co, _, k, _ = w.shape
        r = k // 2
        x, pad = waiting[step.inputs[0]].pop(0), r
        border = str(step.params.get("border", "zero"))
        if r and border == "symmetric":
            raise DeviceError("engine 'ncnn' has no symmetric border")
        if r and border == "replicate":
            layer("Padding", f"pad{i}", [x], [f"padded{i}"], f"0={r}", f"1={r}", f"2={r}", f"3={r}", "4=1")
            x, pad = f"padded{i}", 0
        activation = str(step.params.get("activation", "none"))
        act = {"none": [], "relu": ["9=1"], "leaky_relu": ["9=2", f"-23310=1,{step.params.get('slope', 0.0)}"]}
        bias = "b" in step.weights
        added = len(step.inputs) > 1
        out = f"conv{i}" if added else step.out
        layer(
            *("Convolution", f"conv_{i}", [x], [out]),
            *(f"0={co}", f"1={k}", f"4={pad}", f"5={int(bias)}", f"6={w.size}", *act[activation]),
        )
        data += b"\0\0\0\0" + w.tobytes()
        if bias:
            data += weights[step.weights["b"]].tobytes()
        if added:
            layer("BinaryOp", f"add{i}", [out, waiting[step.inputs[1]].pop(0)], [step.out], "0=0")
        made(step.out)
    return "\n".join(["7767517", f"{len(lines)} {blobs}", *lines]) + "\n", data


def _ncnn(steps: Sequence[Step], weights: Mapping[str, np.ndarray], shape: tuple[int, ...], threads: int) -> Network:
    import ncnn

    text, data = ncnn_model(steps, weights)
    net = ncnn.Net()
    net.opt.num_threads = threads
    for half in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, half, False)
    with tempfile.TemporaryDirectory() as folder:
        param, weight = Path(folder) / "net.param", Path(folder) / "net.bin"
        param.write_text(text)
        weight.write_bytes(data)
        if net.load_param(str(param)) or net.load_model(str(weight)):
            raise DeviceError("engine 'ncnn' does not read the network written for it")

    def run(x: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(x))
        code, out = extractor.extract(OUTPUT)
        if code:
            raise DeviceError(f"engine 'ncnn' failed with code {code}")
        return np.array(out)

    return run
