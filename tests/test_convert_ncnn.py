# SPDX-License-Identifier: Apache-2.0
"""ncnn's files: the known networks give what they gave, small graphs what their layers say one by one, broken ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

import fastsr  # noqa: E402
from fastsr import convert, executors, modelfile  # noqa: E402
from fastsr.errors import InputError, ModelError  # noqa: E402
from fastsr.testing import rng  # noqa: E402

FILES = (
    "spanx2_ch48",
    "spanx4_ch48",
    "RealESRGAN_General_x4_v3",
    "RealESRGAN_General_WDN_x4_v3",
    "realesr-animevideov3-x4",
    "realesrgan-x4plus-anime",
)
HALF = bytes.fromhex("476b3001")


@pytest.mark.parametrize("name", FILES)
def test_known_networks_give_what_they_gave(name: str, shared: Path) -> None:
    found = convert.read(shared / f"checkpoints/ncnn/{name}.param")
    convolutions = (shared / f"checkpoints/ncnn/{name}.param").read_text().count("\nConvolution")
    nearest = int("v3" in name)
    assert sum(step.op == "conv2d" for step in found.plan.steps) == convolutions + nearest, "not all was folded"
    with np.load(shared / "checkpoints/golden.npz") as given:
        x, expected = given["input"], given[name]
    run = executors.get("cpu").prepare(found.plan, found.weights, threads=2).run
    assert np.abs(run(x) - expected).max() <= 1e-5 * np.ptp(expected)
    tiled = executors.get("cpu").prepare(found.plan, found.weights, threads=1, tile=9).run(x)
    assert run(x).tobytes() == tiled.tobytes()


def test_the_video_network_of_scale_2_is_the_one_of_4_halved(shared: Path) -> None:
    """Its file enlarges by 4 and shrinks by bicubic of a = -3/4, which reads the pixels on the edge again beyond it."""
    small = fastsr.load(shared / "checkpoints/ncnn/realesr-animevideov3-x2.param")
    assert (small.scale, small.name) == (2, "realesr-animevideov3-x2")
    large = fastsr.load(shared / "checkpoints/ncnn/realesr-animevideov3-x4.param")
    with np.load(shared / "checkpoints/golden.npz") as given:
        for x in (given["input"], given["input"][:, :1, :3]):
            x = np.ascontiguousarray(x)
            y = np.pad(large.run(x).astype(np.float64), ((0, 0), (1, 1), (1, 1)), "edge")
            for axis in (1, 2):
                y = np.moveaxis(y, axis, 0)
                n = len(y) - 3
                taps = (-3 / 32, 19 / 32, 19 / 32, -3 / 32)
                y = np.moveaxis(sum(tap * y[i : i + n : 2] for i, tap in enumerate(taps)), 0, axis)
            assert np.abs(small.run(x) - y).max() < 2e-6


# Small graphs, their layers computed one by one.


class Graph:
    """Writes a .param and .bin of random weights, and knows what each blob is for an input."""

    def __init__(self, channels: int = 3) -> None:
        self.lines, self.data, self.made = [f"Input in 0 1 data 2={channels}"], b"", {"data"}
        self.values: dict[str, Callable[[Any], Any]] = {"data": lambda x: x}
        self.channels, self.random = {"data": channels}, rng(7)

    def add(self, kind: str, inputs: str, out: str, params: str, value: Callable[..., Any], channels: int = 0) -> None:
        names = inputs.split()
        self.lines.append(f"{kind} {kind}_{out} {len(names)} 1 {inputs} {out} {params}")
        self.values[out] = lambda x: value(*(self.values[name](x) for name in names))
        self.channels[out] = channels or self.channels[names[0]]

    def numbers(self, *shape: int) -> Any:
        value = self.random.standard_normal(shape) / max(1, np.prod(shape[1:])) ** 0.5
        return torch.from_numpy(value.astype(np.float32))

    def conv(self, x: str, out: str, maps: int, k: int = 3, act: str = "", half: bool = False, groups: int = 1) -> None:
        w, b = self.numbers(maps, self.channels[x] // groups, k, k), self.numbers(maps)
        w = w.half().float() if half else w
        raw = w.numpy().astype(np.float16).tobytes() if half else w.numpy().tobytes()
        self.data += (HALF if half else bytes(4)) + raw + bytes(-len(raw) % 4) + b.numpy().tobytes()
        after = {"": lambda y: y, "9=1": torch.relu, "9=4": torch.sigmoid}.get(
            act, lambda y: functional.leaky_relu(y, 0.2)
        )

        def value(y: Any) -> Any:
            return after(functional.conv2d(y, w.double(), b.double(), padding=k // 2, groups=groups))

        kind = "ConvolutionDepthWise" if groups > 1 else "Convolution"
        more = f" 7={groups}" if groups > 1 else ""
        self.add(kind, x, out, f"0={maps} 1={k} 4={k // 2} 5=1 6={w.numel()} {act}{more}", value, maps)

    def write(self, folder: Path, name: str = "net") -> Path:
        (folder / f"{name}.param").write_text(
            f"7767517\n{len(self.lines)} {len(self.lines)}\n" + "\n".join(self.lines) + "\n"
        )
        (folder / f"{name}.bin").write_bytes(self.data)
        return folder / f"{name}.param"


def residuals(g: Graph) -> None:
    """Sums of every kind: of the input, of scaled values, of one value twice, nested, then an activation."""
    g.conv("data", "a", 3)
    g.add("BinaryOp", "a data", "b", "0=0", lambda a, d: a + d)
    g.add("ReLU", "b", "c", "0=0.1", lambda b: functional.leaky_relu(b, 0.1))
    g.conv("c", "d", 3, act="9=1")
    g.add("Eltwise", "d c", "e", "0=1 -23301=2,0.2,1.0", lambda d, c: 0.2 * d + c)
    g.conv("e", "f", 3)
    g.add("Eltwise", "f e", "h", "0=1 -23301=2,0.2,1.0", lambda f, e: 0.2 * f + e)
    g.add("Eltwise", "h c", "i", "0=1 -23301=2,0.2,1.0", lambda h, c: 0.2 * h + c)
    g.add("BinaryOp", "i i", "j", "0=0", lambda i, _: 2 * i)
    g.conv("j", "k", 3)
    g.add("BinaryOp", "k data", "out", "0=1", lambda k, d: k - d)


def ends(g: Graph) -> None:
    """Numbers per channel before and after, a PReLU after a shuffle, a deconvolution, a nearest base."""
    k = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    g.lines.append("MemoryData mean 0 1 mean 0=1 1=1 2=3")
    g.data += k.numpy().tobytes()
    g.values["mean"], g.channels["mean"] = lambda x: k.double(), 3
    g.add("BinaryOp", "data mean", "centred", "0=1", lambda d, m: d - m)
    g.add("BinaryOp", "centred", "large", "0=2 1=1 2=255", lambda d: 255 * d)
    g.conv("large", "a", 16, half=True)
    g.add("PixelShuffle", "a", "b", "0=2", lambda a: functional.pixel_shuffle(a, 2), 4)
    slopes = g.numbers(4)
    g.data += slopes.numpy().tobytes()
    g.add("PReLU", "b", "c", "0=4", lambda b: functional.prelu(b, slopes.double()))
    w, bias = g.numbers(4, 3, 4, 4), g.numbers(3)
    g.data += bytes(4) + w.transpose(0, 1).contiguous().numpy().tobytes() + bias.numpy().tobytes()
    g.add(
        "Deconvolution",
        "c",
        "d",
        f"0=3 1=4 3=2 4=1 5=1 6={w.numel()}",
        lambda c: functional.conv_transpose2d(c, w.double(), bias.double(), 2, 1),
        3,
    )
    g.add("BinaryOp", "d", "e", "0=3 1=1 2=255", lambda d: d / 255)
    g.add("Interp", "data", "near", "0=1 1=4.0 2=4.0", lambda d: functional.interpolate(d, scale_factor=4))
    g.add("BinaryOp", "near e", "f", "0=0", lambda n, e: n + e)
    scale = g.numbers(3)
    g.data += scale.numpy().tobytes() + slopes[:3].numpy().tobytes()
    view = (slice(None), None, None)
    g.add("Scale", "f", "out", "0=3 1=1", lambda f: f * scale[view].double() + slopes[:3][view].double())


def enlarged(g: Graph) -> None:
    """Nearest before convolutions, an activation in and behind them, groups, a value that is read before it is added."""
    g.conv("data", "a", 6, act="9=2 -23310=1,0.2")
    g.conv("a", "b", 6, groups=3)
    g.add("TanH", "b", "c", "", torch.tanh)
    g.add("Interp", "c", "d", "0=1 1=2.0 2=2.0", lambda c: functional.interpolate(c, scale_factor=2))
    g.conv("d", "e", 4, act="9=2 -23310=1,0.2")
    g.add("Swish", "e", "f", "", functional.silu)
    g.conv("f", "g", 4, 5)
    g.add("BinaryOp", "g f", "h", "0=0", lambda a, b: a + b)
    g.add("Concat", "h f", "i", "0=0", lambda a, b: torch.cat([a, b], 1), 8)
    g.conv("i", "out", 3, 1)


def curves(g: Graph) -> None:
    """sigmoid alone and read twice, x sigmoid(x), the gate of two kinds of order."""
    g.conv("data", "a", 4)
    g.add("Sigmoid", "a", "s", "", torch.sigmoid)
    g.add("BinaryOp", "s a", "b", "0=2", lambda s, a: s * a)
    g.conv("b", "c", 4)
    g.add("BinaryOp", "b c", "sum", "0=0", lambda b, c: b + c)
    g.add("Sigmoid", "c", "curve", "", torch.sigmoid)
    g.add("BinaryOp", "curve", "half", "0=1 1=1 2=0.5", lambda s: s - 0.5)
    g.add("BinaryOp", "half sum", "gated", "0=2", lambda h, s: h * s)
    g.conv("gated", "d", 3, act="9=4")
    g.add("Sigmoid", "d", "e", "", torch.sigmoid)
    g.add("BinaryOp", "e", "f", "0=7 1=1 2=1", lambda e: 1 - e)
    g.add("BinaryOp", "f e", "out", "0=0", lambda f, e: f + e)


@pytest.mark.parametrize("fill", [residuals, ends, enlarged, curves])
def test_folds_give_what_the_layers_give_one_by_one(fill: Callable[[Graph], None], tmp_path: Path) -> None:
    graph = Graph()
    fill(graph)
    found = convert.read(graph.write(tmp_path))
    for h, w in ((1, 1), (5, 4), (9, 13)):
        x = rng(1).random((3, h, w), dtype=np.float32)
        expected = graph.values["out"](torch.from_numpy(x).double()[None])[0].numpy()
        exact = executors.get("reference").prepare(found.plan, found.weights, precision="fp64").run(x)
        assert np.abs(exact - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())
        assert np.abs(executors.get("cpu").prepare(found.plan, found.weights).run(x) - expected).max() < 1e-4


def test_a_gray_network_and_a_model_file_of_it(tmp_path: Path) -> None:
    graph = Graph(1)
    graph.conv("data", "a", 4, 5)
    graph.add("PixelShuffle", "a", "out", "0=2", lambda a: functional.pixel_shuffle(a, 2), 1)
    path = graph.write(tmp_path, "gray_x2")
    made = modelfile.read(convert.convert(path, tmp_path / "gray_x2.safetensors", licence="MIT"))
    assert (made.name, made.plan.domain, made.plan.scale, made.meta["licence"]) == ("gray_x2", "y", 2, "MIT")
    modelfile.verify(made)
    with pytest.raises(InputError, match="is for scale 2, not 3"):
        convert.read(path, scale=3)


def simple(tmp_path: Path) -> Path:
    graph = Graph()
    graph.conv("data", "a", 12)
    graph.add("PixelShuffle", "a", "out", "0=2", lambda a: functional.pixel_shuffle(a, 2), 3)
    return graph.write(tmp_path)


CONV = "Convolution Convolution_a 1 1 data a 0=12 1=3 4=1 5=1 6=324 "
LAST = "PixelShuffle PixelShuffle_out 1 1 a out 0=2"
BROKEN = [
    ("7767517\n", "7767518\n", "expected 7767517"),
    ("7767517\n3 3", "7767517\n3", "line 2"),
    ("7767517\n3 3", "7767517\n-3 3", "line 2"),
    ("7767517\n3 3", "7767517\n9 3", "lists 3 layers, but says 9"),
    ("7767517\n3 3", "7767517\n3 2", "makes 3 blobs, but says 2"),
    ("Input in 0 1 data 2=3", "Input in 0 1 data 2=4", "has 4 channels"),
    ("Input in 0 1 data 2=3", "Input in 0 9 data 2=3", "not a layer"),
    ("Input in 0 1 data 2=3", "Noop in 0 1 data", "has not one input"),
    (LAST, "PixelShuffle p 1 1 b out 0=2", "reads 'b', which no layer before it makes"),
    (LAST, "PixelShuffle p 1 1 a data 0=2", "'data' is made twice"),
    (LAST, "PixelShuffle p 1 1 a out 0=5", "shuffles 12 channels by 5"),
    (LAST, "PixelShuffle p 1 1 a out 0=-2", "shuffles 12 channels by -2"),
    (LAST, "PixelShuffle p 1 1 a out 0=2 1=1", "parameter 1='1'"),
    (LAST, "PixelShuffle p 1 1 a out 0=2 -23301=3,1", "not a layer"),
    (LAST, "PixelShuffle p 1 1 a out 0=nan", "expected a whole number"),
    (LAST, "PixelShuffle p 1 1 a out 0=1e40", "expected a whole number"),
    (LAST, "PixelShuffle p 1 1 a out 0", "not a layer"),
    (LAST, "PixelShuffle p 1 -1 a out 0=2", "not a layer"),
    (LAST, "Pooling p 1 1 a out 0=2", r"layer 'p' \(Pooling\) is of a kind that fastsr does not know"),
    (LAST, "ReLU p 1 1 a out", "gives 12 channels of 3"),
    (LAST, "Interp p 1 1 a out 0=2 1=2.0 2=2.0", "resizes bilinear by 2 x 2"),
    (LAST, "Interp p 1 1 a out 0=1 1=99 2=99", "enlarges by 99"),
    (LAST, "Interp p 1 1 a out 0=3 1=0.5 2=0.5", "is shrunk by two"),
    (LAST, "BinaryOp p 2 1 a data out 0=0", "adds values of different sizes"),
    (LAST, "BinaryOp p 2 1 a data out 0=2", "multiplies two values"),
    (LAST, "BinaryOp p 2 1 a data out 0=4", "operation 4"),
    (LAST, "BinaryOp p 1 1 a out 0=3 1=1 2=0", "divides by zero"),
    (LAST, "Eltwise p 2 1 a data out 0=1 -23301=1,1", "1 factors"),
    (LAST, "Eltwise p 1 1 a out 0=1 -23301=1,inf", "expected numbers"),
    (LAST, "Concat p 1 1 a out 0=1", "another axis"),
    (LAST, "PReLU p 1 1 a out 0=5", "5 slopes for 12 channels"),
    (LAST, "PReLU p 1 1 a out 0=12", "it is cut"),
    (LAST, "MemoryData p 0 1 out 0=1 1=1 2=9", "it is cut"),
    (CONV, CONV.replace("6=324", "6=325"), "has 325 weights, expected 324"),
    (CONV, CONV.replace("6=324", "6=-324"), "reads|weights"),
    (CONV, CONV.replace("0=12", "0=13"), "reads 2 channels"),
    (CONV, CONV.replace("0=12", "0=0"), "reads 0 channels"),
    (CONV, CONV.replace("0=12", "0=999999999"), "reads 0 channels"),
    (CONV, CONV + "3=2", "stride 2"),
    (CONV, CONV + "2=2", "parameter 2='2': only 1"),
    (CONV, CONV + "18=1", "parameter 18='1'"),
    (CONV, CONV + "11=5", "not square"),
    (CONV, CONV + "9=3 -23310=2,0,6", "activation 3"),
    (CONV, CONV + "9=2", "activation 2 of 0 numbers"),
    (CONV, CONV.replace("4=1", "4=0"), "padding 0"),
    (CONV, CONV.replace("5=1", "5=0"), "48 bytes more"),
]


@pytest.mark.parametrize(("old", "new", "message"), BROKEN)
def test_a_broken_param_is_refused_in_one_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = simple(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ModelError, match=message) as e:
        convert.read(path)
    assert "\n" not in str(e.value)
    assert str(path) in str(e.value)


def test_a_broken_bin_is_refused(tmp_path: Path) -> None:
    path = simple(tmp_path)
    weights = path.with_suffix(".bin")
    whole = weights.read_bytes()
    for content, message in (
        (b"", "it is cut"),
        (whole[:-1], "it is cut"),
        (whole + b"0", "1 bytes more"),
        (bytes.fromhex("384b0d00") + whole[4:], "8-bit integers"),
        (b"\1\0\0\0" + whole[4:], "of kind 0x00000001"),
        (whole[:4] + b"\xff" * 4 + whole[8:], "NaN, infinity"),
    ):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            convert.read(path)
    weights.unlink()
    with pytest.raises(ModelError, match="not beside it"):
        convert.read(path)
    (tmp_path / "other.param").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="not ncnn's"):
        fastsr.load(tmp_path / "other.param")


def test_cut_and_changed_files_raise_nothing_else(tmp_path: Path) -> None:
    """Every line left out or doubled, and bytes changed at random: converted, or refused by ModelError."""
    graph = Graph()
    enlarged(graph)
    path = graph.write(tmp_path)
    lines, text, random = path.read_text().splitlines(), path.read_text(), rng(11)
    texts = ["\n".join([*lines[:i], *lines[i + n :]]) for i in range(len(lines)) for n in (1, 2)]
    texts += ["\n".join([*lines[: i + 1], *lines[i:]]) for i in range(len(lines))]
    for _ in range(300):
        changed = list(text)
        for at in random.integers(0, len(text), 2):
            changed[at] = random.choice(list("0123456789=-, .ab\n"))
        texts.append("".join(changed))
    refused = 0
    for content in texts:
        for counts in (content, content.replace("\n11 11\n", f"\n{content.count(chr(10)) - 1} 99\n", 1)):
            path.write_text(counts)
            try:
                convert.read(path)
            except ModelError:
                refused += 1
    assert refused > 100
