# SPDX-License-Identifier: Apache-2.0
"""ncnn's networks: a .param, which lists the layers as text, and the .bin of weights beside it -> a plan, without torch.

Layers are those of networks of convolutions; others are refused by name. Images are expected as such networks are fed,
RGB (or one channel) in [0, 1]. Every number is used once: a .bin that is cut or too long is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from fastsr import _core
from fastsr.convert import Converted, check_file
from fastsr.convert.network import Network, Unsupported, Value
from fastsr.errors import ModelError

MAGIC = "7767517"
MAX_TEXT, MAX_LAYERS = _core.MODEL_LIMITS["header_bytes"], _core.MODEL_LIMITS["tensors"]
RAW = (0, 0x0002C056)  # tags of weights in float32
HALF, INT8 = 0x01306B47, 0x000D4B38
ARRAYS = 23300  # keys of arrays are -23300 - key

Number = int | float
T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Layer:
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: Mapping[int, str | tuple[str, ...]]

    def number(self, key: int, default: T) -> T:
        """A parameter of the default's kind."""
        text = self.params.get(key, str(default))
        try:
            value = float(text) if isinstance(text, str) else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > 1e30 or (isinstance(default, int) and value != int(value)):
            raise Unsupported(
                f"has parameter {key}={text!r}, expected {'a whole' if isinstance(default, int) else 'a'} number"
            )
        return type(default)(value)

    def array(self, key: int) -> list[float]:
        text = self.params.get(ARRAYS + key, ())
        try:
            values = [float(item) for item in text]
        except ValueError:
            values = [math.nan]
        if not all(math.isfinite(value) for value in values):
            raise Unsupported(f"has parameter {key}={','.join(text)}, expected numbers")
        return values

    def allow(self, *keys: int, **fixed: int) -> None:
        """Raise Unsupported for a parameter that is neither known nor 0, or not what it must be (p4=0)."""
        for key, text in self.params.items():
            known = key in keys or (key > ARRAYS and key - ARRAYS in keys)
            if (
                not known
                and f"p{key}" not in fixed
                and (not isinstance(text, str) or float(self.number(key, 0.0)) != 0)
            ):
                raise Unsupported(f"has parameter {key}={text!r}, which fastsr does not know")
        for name, wanted in fixed.items():
            key = int(name[1:])
            if key in self.params and self.number(key, wanted) != wanted:
                raise Unsupported(f"has parameter {key}={self.params[key]!r}: only {wanted} is known")


class Weights:
    """The .bin, read from its beginning."""

    def __init__(self, path: Path) -> None:
        check_file(path)
        self._data, self._at = path.read_bytes(), 0

    def tagged(self, count: int) -> np.ndarray:  # [count] f32
        """Numbers behind a tag that says of what kind they are."""
        tag = int(self._numbers(1, "<u4")[0])
        if tag == HALF:
            found = self._numbers(count, "<f2")
            self._at += -self._at % 4
            return found.astype(np.float32)
        if tag not in RAW:
            kind = "8-bit integers" if tag == INT8 else f"a table or of kind 0x{tag:08x}"
            raise Unsupported(f"has weights of {kind}: float32 and float16 are known")
        return self.raw(count)

    def raw(self, count: int) -> np.ndarray:  # [count] f32
        return self._numbers(count, "<f4").astype(np.float32)

    def _numbers(self, count: int, kind: str) -> np.ndarray:
        size = np.dtype(kind).itemsize
        left = len(self._data) - self._at
        if not 0 <= count * size <= left:
            raise Unsupported(
                f"wants {count} numbers, but the .bin ends after {max(left, 0) // size}: it is cut, or of another network"
            )
        found = np.frombuffer(self._data, kind, count, self._at)
        self._at += count * size
        return found

    def end(self) -> None:
        if self._at < len(self._data):
            raise Unsupported(
                f"the .bin has {len(self._data) - self._at} bytes more than the layers take: it is of another network"
            )


def read(path: Path, scale: int | None = None) -> Converted:
    """Read a .param and the .bin beside it. Raises ModelError, one line, for what is broken or not known."""
    layers = parse(path)
    weights = path.with_suffix(".bin")
    if not weights.exists():
        raise ModelError(f"{path}: its weights {weights.name} are not beside it")
    where = ""
    try:
        source = Weights(weights)
        network = Network(_channels(layers))
        values: dict[str, Value | np.ndarray] = {}
        roots, readers = _readers(layers)
        for layer in layers:
            where = f"layer '{layer.name[:60]}' ({layer.kind[:40]}) "
            if layer.kind == "Split":
                continue
            if layer.kind not in LAYERS:
                raise Unsupported(f"is of a kind that fastsr does not know: it knows {', '.join(sorted(LAYERS))}")
            inputs = [values[roots[name]] for name in layer.inputs]
            made = LAYERS[layer.kind](network, layer, inputs, source)
            out = layer.outputs[0]
            values[out] = made if isinstance(made, np.ndarray) else network.readers(made, readers[out])
        where = ""
        source.end()
        ends = [name for name, value in values.items() if not readers[name] and not isinstance(value, np.ndarray)]
        if len(ends) != 1:
            raise Unsupported(f"has {len(ends)} outputs ({', '.join(ends[:3])}): expected one")
        plan, tensors = network.finish(_value(values[ends[0]]))
    except Unsupported as e:
        raise ModelError(f"{path}: {where}{e}") from None
    about = {"converted_from": path.name}
    return Converted(plan, tensors, path.stem, "ncnn", {"layers": len(layers)}, "unknown", about)


def parse(path: Path) -> list[Layer]:
    """The layers of a .param, whose blobs are made before they are read. Raises ModelError."""
    check_file(path)
    raw = path.read_bytes()[: MAX_TEXT + 1]
    try:
        lines = [line.split() for line in raw.decode().splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    if len(raw) > MAX_TEXT:
        raise ModelError(f"{path}: longer than {MAX_TEXT} bytes, the limit for a .param")
    if not lines or lines[0] != [MAGIC]:
        raise ModelError(f"{path}: not ncnn's .param: expected {MAGIC} in its first line (a binary one is not known)")
    counts = lines[1] if len(lines) > 1 else []
    if len(counts) != 2 or not all(re.fullmatch("[0-9]{1,6}", text) for text in counts):
        raise ModelError(f"{path}: line 2 is not the numbers of layers and blobs")
    if int(counts[0]) != len(lines) - 2:
        raise ModelError(f"{path}: lists {len(lines) - 2} layers, but says {counts[0]}: it is cut or was edited")
    if len(lines) - 2 > MAX_LAYERS:
        raise ModelError(f"{path}: has {len(lines) - 2} layers, the limit is {MAX_LAYERS}")
    layers, made = [], set[str]()
    for words in lines[2:]:
        try:
            layer = _layer(words)
        except ValueError:
            raise ModelError(f"{path}: not a layer: {' '.join(words)[:80]}") from None
        for name in layer.inputs:
            if name not in made:
                raise ModelError(
                    f"{path}: layer '{layer.name[:60]}' reads '{name[:60]}', which no layer before it makes"
                )
        for name in layer.outputs:
            if name in made:
                raise ModelError(f"{path}: '{name[:60]}' is made twice")
            made.add(name)
        layers.append(layer)
    if len(made) > int(counts[1]):
        raise ModelError(f"{path}: makes {len(made)} blobs, but says {counts[1]}: it was edited")
    return layers


def _layer(words: list[str]) -> Layer:
    kind, name, ins, outs, *rest = words
    n, m = int(ins), int(outs)
    if not (0 <= n <= len(rest) and 0 <= m <= len(rest) - n) or (m != 1 and kind != "Split"):
        raise ValueError
    params: dict[int, str | tuple[str, ...]] = {}
    for word in rest[n + m :]:
        key, mark, text = word.partition("=")
        number = int(key)
        if not mark or abs(number) > 2 * ARRAYS:
            raise ValueError
        if number <= -ARRAYS:
            count, *items = text.split(",")
            if int(count) != len(items):
                raise ValueError
            params[-number] = tuple(items)
        else:
            params[number] = text
    return Layer(kind, name, tuple(rest[:n]), tuple(rest[n : n + m]), params)


def _readers(layers: list[Layer]) -> tuple[dict[str, str], Counter[str]]:
    """What every blob is a copy of, and how often that is read."""
    roots: dict[str, str] = {}
    readers: Counter[str] = Counter()
    for layer in layers:
        if layer.kind == "Split" and len(layer.inputs) == 1:
            roots |= dict.fromkeys(layer.outputs, roots[layer.inputs[0]])
        else:
            readers.update(roots[name] for name in layer.inputs)
            roots |= {name: name for name in layer.outputs}
    return roots, readers


def _channels(layers: list[Layer]) -> int:
    """Channels of the image, which the first convolution tells."""
    if [layer.kind for layer in layers].count("Input") != 1:
        raise Unsupported("has not one input")
    for layer in layers:
        if layer.kind == "Convolution":
            taps = layer.number(0, 0) * layer.number(1, 0) ** 2
            return layer.number(6, 0) // taps if taps > 0 else 0
    raise Unsupported("has no convolution")


Inputs = list[Value | np.ndarray]


def _value(x: Value | np.ndarray) -> Value:
    if isinstance(x, np.ndarray):
        raise Unsupported("reads a constant")
    return x


def _one(inputs: Inputs) -> Value:
    if len(inputs) != 1:
        raise Unsupported(f"reads {len(inputs)} values, expected 1")
    return _value(inputs[0])


def _input(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    channels = layer.number(2, 0)
    if inputs or (channels > 0 and channels != network.input.channels):
        raise Unsupported(f"has {channels} channels, its first convolution {network.input.channels}")
    return network.input


def _kernel(layer: Layer, *more: int) -> tuple[int, int, int]:
    """(maps, kernel, padding) of a convolution whose sides are alike."""
    layer.allow(0, 1, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, *more, p2=1, p12=1)
    maps, k, padding = layer.number(0, 0), layer.number(1, 0), layer.number(4, 0)
    sides = {layer.number(key, padding) for key in (14, 15, 16)} | {layer.number(15, padding)}
    if layer.number(11, k) != k or sides != {padding} or layer.number(13, layer.number(3, 1)) != layer.number(3, 1):
        raise Unsupported("is not square")
    if not (1 <= maps <= 65536 and 1 <= k <= 31):
        raise Unsupported(f"has {maps} maps and a kernel of {k}: at most 65536 and 31")
    return maps, k, padding


def _tensors(layer: Layer, source: Weights, maps: int, per_map: int, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    if size != maps * per_map or size < 1:
        raise Unsupported(f"has {size} weights, expected {maps * per_map} for the channels that it reads")
    w = source.tagged(size)
    return w, source.raw(maps) if layer.number(5, 0) else None


def _convolution(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    x, grouped = _one(inputs), layer.kind == "ConvolutionDepthWise"
    maps, k, padding = _kernel(layer, *([7] if grouped else []))
    if layer.number(3, 1) != 1 or k % 2 == 0 or padding != k // 2:
        stride = layer.number(3, 1)
        raise Unsupported(
            f"has kernel {k}, stride {stride}, padding {padding}: only those that keep the size are known"
        )
    channels, groups = network.channels(x), layer.number(7, 1) if grouped else 1
    if groups < 1 or channels % groups or maps % groups:
        raise Unsupported(f"has {groups} groups of {channels} channels and {maps} maps")
    w, b = _tensors(layer, source, maps, channels // groups * k * k, layer.number(6, 0))
    w = w.reshape(maps, channels // groups, k, k)
    if groups > 1:
        network.room(maps * channels * k * k)
        wide = np.zeros((groups, maps // groups, groups, channels // groups, k, k), np.float32)
        each = w.reshape(groups, maps // groups, channels // groups, k, k)
        wide[range(groups), :, range(groups)] = each
        w = wide.reshape(maps, channels, k, k)
    return _activated(network, layer, network.conv(x, w, b))


def _deconvolution(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    x = _one(inputs)
    maps, k, padding = _kernel(layer)
    w, b = _tensors(layer, source, maps, network.channels(x) * k * k, layer.number(6, 0))
    w = w.reshape(maps, -1, k, k).transpose(1, 0, 2, 3)
    return _activated(network, layer, network.deconv(x, w, b, layer.number(3, 1), padding))


def _activated(network: Network, layer: Layer, x: Value) -> Value:
    """With the activation that a convolution has in itself."""
    kind, params = layer.number(9, 0), layer.array(10)
    if kind == 0:
        return x
    if kind not in (1, 2, 4) or len(params) != (kind == 2):
        raise Unsupported(
            f"has activation {kind} of {len(params)} numbers: known are 1 (relu), 2 (leaky relu), 4 (sigmoid)"
        )
    if kind == 4:
        return network.sigmoid(x)
    return network.activate(x, *(("relu",) if kind == 1 else ("leaky_relu", params[0])))


def _relu(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    layer.allow(0)
    slope = layer.number(0, 0.0)
    return network.activate(_one(inputs), "leaky_relu" if slope else "relu", slope)


def _prelu(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    layer.allow(0)
    x, count = _one(inputs), layer.number(0, 0)
    if count not in (1, network.channels(x)):
        raise Unsupported(f"has {count} slopes for {network.channels(x)} channels")
    slopes = source.raw(count)
    if count == 1:
        return network.activate(x, "leaky_relu", float(slopes[0]))
    return network.activate(x, "leaky_relu", 0.0, slopes)


def _swish(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    return network.activate(_one(inputs), "silu")


def _tanh(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    return network.activate(_one(inputs), "tanh")


def _sigmoid(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    return network.sigmoid(_one(inputs))


def _nothing(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    return _one(inputs)


def _concat(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    if layer.number(0, 0) not in (0, -3):
        raise Unsupported("joins along another axis than the channels")
    return network.join([_value(x) for x in inputs])


def _shuffle(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    layer.allow(0, p1=0)
    return network.shuffle(_one(inputs), layer.number(0, 1))


def _interp(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    layer.allow(0, 1, 2)
    kind, tall, wide = layer.number(0, 0), layer.number(1, 1.0), layer.number(2, 1.0)
    if kind == 1 and tall == wide == int(tall):
        return network.nearest(_one(inputs), int(tall))
    if kind == 3 and tall == wide == 0.5:
        return network.halve(_one(inputs))
    names = {1: "nearest", 2: "bilinear", 3: "bicubic"}
    raise Unsupported(
        f"resizes {names.get(kind, kind)} by {wide:g} x {tall:g}: known are nearest by whole numbers and bicubic by 0.5"
    )


def _constant(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> np.ndarray:
    layer.allow(0, 1, 2, p21=1)
    w, h, c = (layer.number(key, 0) for key in (0, 1, 2))
    if inputs or w != 1 or h != 1 or not 1 <= c <= 65536:
        raise Unsupported(f"is a constant of {w} x {h} x {c}: known are those of one number a channel")
    return source.raw(c)


def _binary(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    layer.allow(0, 1, 2)
    op = layer.number(0, 0)
    if layer.number(1, 0):
        return _with_constant(network, op, _one(inputs), np.array([layer.number(2, 0.0)]))
    if len(inputs) != 2:
        raise Unsupported(f"reads {len(inputs)} values, expected 2")
    a, b = inputs
    if isinstance(b, np.ndarray):
        return _with_constant(network, op, _value(a), b)
    if isinstance(a, np.ndarray):
        return _with_constant(network, {1: 7, 3: 8, 7: 1, 8: 3}.get(op, op), b, a)
    if op == 2:
        return network.multiply(a, b)
    if op not in (0, 1, 7):
        raise Unsupported(f"is operation {op} of two values: known are 0 (sum), 1 (difference), 2 (product)")
    return network.add([(-1.0 if op == 7 else 1.0, a), (-1.0 if op == 1 else 1.0, b)])


def _with_constant(network: Network, op: int, x: Value, k: np.ndarray) -> Value:
    one = np.ones(1)
    if op == 3 and not k.all():
        raise Unsupported("divides by zero")
    ways: dict[int, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        0: lambda: (one, k),
        1: lambda: (one, -k),
        2: lambda: (k, 0 * one),
        3: lambda: (1 / k.astype(np.float64), 0 * one),
        7: lambda: (-one, k),
    }
    if op not in ways:
        raise Unsupported(f"is operation {op} with a constant: known are 0 to 3 and 7")
    return network.affine(x, *ways[op]())


def _eltwise(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    layer.allow(0, 1)
    kind, factors = layer.number(0, 0), layer.array(1) or [1.0] * len(inputs)
    if kind != 1 or len(factors) != len(inputs) or not inputs:
        raise Unsupported(
            f"is operation {kind} of {len(inputs)} values with {len(factors)} factors: sums (1) are known"
        )
    return network.add([(factor, _value(x)) for factor, x in zip(factors, inputs, strict=True)])


def _scale(network: Network, layer: Layer, inputs: Inputs, source: Weights) -> Value:
    layer.allow(0, 1)
    x, count = _one(inputs), layer.number(0, 0)
    if count != network.channels(x):
        raise Unsupported(f"has {count} factors for {network.channels(x)} channels")
    factor = source.raw(count)
    return network.affine(x, factor, source.raw(count) if layer.number(1, 0) else np.zeros(1))


LAYERS: dict[str, Callable[[Network, Layer, Inputs, Weights], Value | np.ndarray]] = {
    "Input": _input,
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Deconvolution": _deconvolution,
    "ReLU": _relu,
    "PReLU": _prelu,
    "Swish": _swish,
    "Sigmoid": _sigmoid,
    "TanH": _tanh,
    "Concat": _concat,
    "PixelShuffle": _shuffle,
    "Interp": _interp,
    "BinaryOp": _binary,
    "Eltwise": _eltwise,
    "Scale": _scale,
    "MemoryData": _constant,
    "Noop": _nothing,
    "Dropout": _nothing,
    "Split": _nothing,
}
"""kind -> how it is put into the network; Split only gives a blob more names"""
