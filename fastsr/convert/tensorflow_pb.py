# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's frozen graphs (.pb) of networks on Y, such as OpenCV's dnn_superres reads: FSRCNN, ESPCN. Without TensorFlow.

They are fed Y of full range in [0, 1]; ours is that of studio swing, so that the plan begins and ends with the difference. PReLU
is written as relu(x) + alpha (x - |x|) 0.5 there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastsr import _core
from fastsr.convert import Converted, check_file
from fastsr.convert.network import Network, Unsupported, Value
from fastsr.errors import ModelError

MAX_NODES = _core.MODEL_LIMITS["tensors"]
BLACK, SWING = 16 / 255, 219 / 255  # of Y in studio swing
FLOAT = 1  # of TensorFlow's types


@dataclass
class Node:
    op: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    attributes: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """factor[c] times what `kind` makes of a value: "abs", "relu", or "below", x - |x|."""

    kind: str
    of: Value
    factor: np.ndarray | None = None


Found = Value | np.ndarray | Part


def read(path: Path, scale: int | None = None) -> Converted:
    """Read a frozen graph. Raises ModelError, one line, for what is broken or not known."""
    check_file(path)
    where = ""
    try:
        nodes = _nodes(path.read_bytes())
        readers = Counter(name for node in nodes for name in node.inputs)
        network = Network(1)
        values: dict[str, Found] = {}
        waiting = nodes
        while waiting:
            later = []
            for node in waiting:
                where = f"node '{node.name[:60]}' ({node.op[:40]}) "
                if any(name not in values for name in node.inputs):
                    later.append(node)
                    continue
                made = _made(network, node, [values[name] for name in node.inputs], not readers[node.name])
                whole = not isinstance(made, np.ndarray | Part)
                values[node.name] = network.readers(made, readers[node.name]) if whole else made  # type: ignore[arg-type]
            if len(later) == len(waiting):
                raise Unsupported("reads what no node makes")
            waiting = later
        where = ""
        ends = [node.name for node in nodes if not readers[node.name] and node.op != "Const"]
        if len(ends) != 1:
            raise Unsupported(f"has {len(ends)} outputs: expected one")
        out = network.affine(_value(values[ends[0]]), np.array([SWING]), np.array([BLACK]))
        plan, weights = network.finish(out)
    except Unsupported as e:
        raise ModelError(f"{path}: {where}{e}") from None
    about = {"converted_from": path.name}
    return Converted(plan, weights, path.stem, "tensorflow", {"nodes": len(nodes)}, "unknown", about)


def _made(network: Network, node: Node, inputs: list[Found], last: bool) -> Found:
    """What a node gives."""
    if node.op == "Const":
        return _tensor(node.attributes.get("value", b""))
    if node.op == "Placeholder":
        return network.affine(network.input, np.array([1 / SWING]), np.array([-BLACK / SWING]))
    if node.op not in OPS or len(inputs) != OPS[node.op]:
        known = ", ".join(OPS)
        raise Unsupported(f"of {len(inputs)} inputs is of a kind that fastsr does not know: it knows {known}")
    a, b = inputs[0], inputs[-1]
    if node.op == "Conv2D":
        return _conv(network, node, _value(a), b)
    if node.op == "Mul":
        part, k = (b, a) if isinstance(b, Part) else (a, b)
        if not isinstance(part, Part) or part.kind != "below" or not isinstance(k, np.ndarray) or k.ndim > 1:
            raise Unsupported("is no product of a PReLU, alpha (x - |x|) 0.5: other products are not known")
        return Part("below", part.of, k.astype(np.float64) * (1.0 if part.factor is None else part.factor))
    if node.op == "Sub":
        if isinstance(b, Part) and b.kind == "abs" and b.of == a:
            return Part("below", b.of)
        raise Unsupported("is no x - |x|: other differences are not known")
    if isinstance(a, Part) and isinstance(b, Part):
        return _prelu(network, a, b)
    if node.op in ("Add", "AddV2", "BiasAdd"):
        x, k = (b, a) if isinstance(a, np.ndarray) else (a, b)
        if not isinstance(k, np.ndarray) or k.ndim > 1:
            raise Unsupported("adds two values: only biases and PReLU are known")
        return network.affine(_value(x), np.ones(1), k)
    if node.op in ("Abs", "Relu"):
        return Part(node.op.lower(), _value(a)) if not _alone(network, a) else network.activate(_value(a), "relu")
    if node.op == "Tanh":
        return network.activate(_value(a), "tanh")
    if node.op == "DepthToSpace":
        _fixed(node, "data_format", b"\x12\x04NHWC")
        by = node.attributes.get("block_size", b"\x18\0")[-1]
        if network.channels(_value(a)) != by**2:
            raise Unsupported(f"shuffles {network.channels(_value(a))} channels by {by}: only to one channel is known")
        return network.shuffle(_value(a), by)
    if node.op == "Transpose" and not (last and isinstance(b, np.ndarray) and b.tolist() == [0, 3, 1, 2]):
        raise Unsupported("turns axes: only the output's, to NCHW, is known")
    return _value(a)


OPS = {
    "Conv2D": 2,
    "Add": 2,
    "AddV2": 2,
    "BiasAdd": 2,
    "Sub": 2,
    "Mul": 2,
    "Abs": 1,
    "Relu": 1,
    "Tanh": 1,
    "DepthToSpace": 1,
    "Transpose": 2,
    "Identity": 1,
}
"""kind -> how many inputs it has"""


def _value(x: Found) -> Value:
    if isinstance(x, np.ndarray | Part):
        raise Unsupported("reads a constant, or a part of a PReLU")
    return x


def _alone(network: Network, x: Found) -> bool:
    return network.read_once(_value(x))


def _prelu(network: Network, a: Part, b: Part) -> Value:
    relu, below = (a, b) if a.kind == "relu" else (b, a)
    if (relu.kind, below.kind) != ("relu", "below") or relu.of != below.of or below.factor is None:
        raise Unsupported("is no relu(x) + alpha (x - |x|) 0.5: other sums are not known")
    x = network.readers(relu.of, 1)  # of the four that read it one is left
    slopes = np.broadcast_to(2 * below.factor, network.channels(x) if below.factor.size == 1 else below.factor.shape)
    return network.activate(x, "leaky_relu", 0.0, slopes)


def _conv(network: Network, node: Node, x: Value, w: Found) -> Value:
    _fixed(node, "data_format", b"\x12\x04NHWC")
    _fixed(node, "padding", b"\x12\x04SAME")
    for name in ("strides", "dilations"):
        _fixed(node, name, b"\x0a\x06\x1a\x04\1\1\1\1")
    if not isinstance(w, np.ndarray) or w.ndim != 4 or w.shape[0] != w.shape[1] or w.shape[0] % 2 == 0:
        raise Unsupported("has no constant weights [k, k, Ci, Co] of odd k")
    return network.conv(x, np.ascontiguousarray(w.transpose(3, 2, 0, 1)), None)


def _fixed(node: Node, name: str, wanted: bytes) -> None:
    if node.attributes.get(name, wanted) != wanted:
        raise Unsupported(f"has another {name} than those that keep the size, in NHWC")


# Protocol buffers: https://protobuf.dev/programming-guides/encoding


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message. Raises Unsupported where it is none."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(data):
                break
            value |= (data[at] & 127) << shift
            at += 1
            if data[at - 1] < 128:
                return value
        raise Unsupported("not a frozen graph of TensorFlow, or cut")

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 2: -1, 5: 4}.get(kind, 0)
        size = varint() if size < 0 else size
        if (not size and kind != 2) or size > len(data) - at:
            raise Unsupported("not a frozen graph of TensorFlow, or cut")
        at += size
        yield key >> 3, data[at - size : at]


def _nodes(data: bytes) -> list[Node]:
    nodes = []
    for number, message in _fields(data):
        if number != 1 or not isinstance(message, bytes):
            continue
        node = Node()
        for key, value in _fields(message):
            if not isinstance(value, bytes):
                continue
            if key == 5:
                entry = dict(_fields(value))
                node.attributes[_text(entry.get(1, b""))] = bytes(entry.get(2, b"") or b"")
            elif key == 3:
                node.inputs.append(_text(value).removesuffix(":0"))
            elif key in (1, 2):
                setattr(node, {1: "name", 2: "op"}[key], _text(value))
        nodes.append(node)
    names = {node.name for node in nodes}
    if not nodes or len(nodes) > MAX_NODES or len(names) < len(nodes):
        raise Unsupported(
            f"not a frozen graph of TensorFlow: {len(nodes)} nodes of {len(names)} names, 1 to {MAX_NODES}"
        )
    if [node.op for node in nodes].count("Placeholder") != 1:
        raise Unsupported("has not one input (Placeholder)")
    return nodes


def _text(value: int | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def _tensor(attribute: bytes) -> np.ndarray:
    """The numbers of a constant, float32 or a few integers."""
    tensor = dict(_fields(attribute)).get(8, b"")
    parts = list(_fields(tensor)) if isinstance(tensor, bytes) else []
    kind = dict(parts).get(1, 0)
    dims = [
        dict(_fields(d)).get(1, 0)
        for n, s in parts
        if n == 2 and isinstance(s, bytes)
        for _, d in _fields(s)
        if isinstance(d, bytes)
    ]
    shape = [d if isinstance(d, int) else 0 for d in dims]
    raw = b"".join(value for number, value in parts if number in (4, 5) and isinstance(value, bytes))
    count = math.prod(shape)
    if kind not in (FLOAT, 3) or len(shape) > 4 or len(raw) != 4 * count:
        raise Unsupported(f"is a constant of type {kind!r}, shape {shape} and {len(raw)} bytes: float32 is known")
    return np.frombuffer(raw, "<f4" if kind == FLOAT else "<i4").reshape(shape)
