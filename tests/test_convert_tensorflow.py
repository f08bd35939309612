# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's frozen graphs: small ones written here give what their nodes say, broken ones are refused, the known ones load."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

from fastsr import convert, executors  # noqa: E402
from fastsr.errors import ModelError  # noqa: E402
from fastsr.testing import rng  # noqa: E402


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def node(op: str, name: str, inputs: str = "", **attributes: bytes) -> bytes:
    content = message(1, name.encode()) + message(2, op.encode())
    content += b"".join(message(3, x.encode()) for x in inputs.split())
    for key, value in attributes.items():
        content += message(5, message(1, key.encode()) + message(2, value))
    return message(1, content)


def const(name: str, value: np.ndarray) -> bytes:
    shape = b"".join(message(2, varint(1 << 3) + varint(n)) for n in value.shape)
    kind = 1 if value.dtype == np.float32 else 3
    return node("Const", name, value=message(8, bytes([8, kind]) + message(2, shape) + message(4, value.tobytes())))


SAME = {"padding": message(2, b"SAME"), "data_format": message(2, b"NHWC"), "strides": b"\n\6\x1a\4\1\1\1\1"}
SHUFFLE = {"block_size": b"\x18\2", "data_format": message(2, b"NHWC")}


class Net:
    """FSRCNN as it is written there: a convolution, a bias, PReLU, another convolution, a shuffle, a bias, a tanh."""

    def __init__(self) -> None:
        random = rng(5)
        self.w1 = (random.standard_normal((5, 5, 1, 6)) / 5).astype(np.float32)
        self.w2 = (random.standard_normal((3, 3, 6, 4)) / 7).astype(np.float32)
        self.b1, self.b2, self.alpha = (random.standard_normal(n).astype(np.float32) / 3 for n in (6, 1, 6))

    def parts(self) -> list[bytes]:
        return [
            const("perm", np.array([0, 3, 1, 2], np.int32)),
            *(const(name, getattr(self, name)) for name in ("w1", "w2", "b1", "b2", "alpha")),
            const("half", np.array(0.5, np.float32)),
            node("Placeholder", "x"),
            node("Conv2D", "c1", "x w1", **SAME),
            node("Add", "a", "c1 b1"),
            node("Abs", "abs", "a"),
            node("Sub", "sub", "a abs"),
            node("Mul", "mul", "alpha sub"),
            node("Mul", "mul1", "mul half"),
            node("Relu", "relu", "a"),
            node("Add", "prelu", "relu mul1"),
            node("Conv2D", "c2", "prelu:0 w2", **SAME),
            node("DepthToSpace", "up", "c2", **SHUFFLE),
            node("BiasAdd", "biased", "up b2"),
            node("Tanh", "end", "biased"),
            node("Transpose", "out", "end perm"),
        ]

    def run(self, y: np.ndarray) -> np.ndarray:
        w1, w2 = (torch.from_numpy(w.transpose(3, 2, 0, 1).copy()).double() for w in (self.w1, self.w2))
        x = (torch.from_numpy(y).double()[None] * 255 - 16) / 219  # of full range, as OpenCV feeds it
        x = functional.conv2d(x, w1, torch.from_numpy(self.b1).double(), padding=2)
        x = functional.prelu(x, torch.from_numpy(self.alpha).double())
        x = functional.pixel_shuffle(functional.conv2d(x, w2, padding=1), 2) + float(self.b2[0])
        found: np.ndarray = ((x.tanh() * 219 + 16) / 255)[0].numpy()
        return found


def test_a_graph_gives_what_its_nodes_say(tmp_path: Path) -> None:
    net, path = Net(), tmp_path / "net_x2.pb"
    for parts in (net.parts(), net.parts()[::-1]):  # in any order
        path.write_bytes(b"".join(parts))
        found = convert.read(path)
        assert (found.plan.domain, found.plan.scale, found.arch) == ("y", 2, "tensorflow")
        assert [step.op for step in found.plan.steps].count("conv2d") == 2
        for h, w in ((1, 1), (7, 5)):
            y = rng(2).random((1, h, w), dtype=np.float32)
            out = executors.get("cpu").prepare(found.plan, found.weights).run(y)
            assert np.abs(out - net.run(y)).max() < 1e-5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (node("Relu", "relu", "a"), node("Elu", "relu", "a"), r"'relu' \(Elu\) of 1 inputs is of a kind"),
        (node("Abs", "abs", "a"), node("Abs", "abs", "x"), r"is no x - \|x\|"),
        (node("Mul", "mul", "alpha sub"), node("Mul", "mul", "a a"), "no product of a PReLU"),
        (node("Add", "a", "c1 b1"), node("Add", "a", "c1 c1"), "adds two values"),
        (node("Add", "a", "c1 b1"), node("Add", "a", "c1 b9"), "reads what no node makes"),
        (node("Add", "a", "c1 b1"), node("Add", "a", "c1 alpha half"), "of 3 inputs"),
        (node("Conv2D", "c1", "x w1", **SAME), node("Conv2D", "c1", "x b1", **SAME), "has no constant weights"),
        (node("Conv2D", "c1", "x w1", **SAME), node("Conv2D", "c1", "x w2", **SAME), "reads 6 channels"),
        (b"SAME", b"VALI", "has another padding"),
        (b"\n\6\x1a\4\1\1\1\1", b"\n\6\x1a\4\1\2\2\1", "has another strides"),
        (node("DepthToSpace", "up", "c2", **SHUFFLE), node("Tanh", "up", "c2"), "gives 4 channels of 1|numbers"),
        (b"\x18\2", b"\x18\3", "shuffles 4 channels by 3"),
        (b"Placeholder", b"Placeholdes", "has not one input"),
        (node("Tanh", "end", "biased"), b"", "reads what no node makes"),
        (node("Transpose", "out", "end perm"), node("Transpose", "out", "end half"), "turns axes"),
        (node("Tanh", "end", "biased"), node("Tanh", "end", "biased") + node("Tanh", "two", "biased"), "2 outputs"),
        (node("Tanh", "end", "biased"), 2 * node("Tanh", "end", "biased"), "18 nodes of 17 names|22 nodes of 21"),
    ],
)
def test_what_is_not_known_is_refused_by_name(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    content = b"".join(Net().parts())
    assert old in content
    (tmp_path / "net.pb").write_bytes(content.replace(old, new))
    with pytest.raises(ModelError, match=message) as e:
        convert.read(tmp_path / "net.pb")
    assert "\n" not in str(e.value)


def test_cut_and_changed_files_raise_nothing_else(tmp_path: Path) -> None:
    content, random, path = b"".join(Net().parts()), rng(3), tmp_path / "net.pb"
    changed: list[Any] = [content[:n] for n in random.integers(0, len(content), 100)]
    for _ in range(400):
        one = bytearray(content)
        for at in random.integers(0, len(one), 3):
            one[at] = random.integers(256)
        changed.append(bytes(one))
    for raw in (*changed, b"", b"\xff" * 30, b"\x0a\x00"):
        path.write_bytes(raw)
        with contextlib.suppress(ModelError):
            convert.read(path)


@pytest.mark.parametrize("name", ["ESPCN", "FSRCNN", "FSRCNN-small"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_opencvs_networks_load(name: str, scale: int, shared: Path) -> None:
    """Their values agree with those of OpenCV's dnn module within 1.1e-6 (measured by hand; it is not installed here)."""
    found = convert.read(shared / f"checkpoints/opencv_sr/{name}_x{scale}.pb")
    assert found.plan.scale == scale
    assert all(step.op in ("conv2d", "pixel_shuffle", "scale_shift") for step in found.plan.steps)
    y = np.full((1, 9, 9), 0.5, np.float32)
    out = executors.get("cpu").prepare(found.plan, found.weights).run(y)
    assert np.abs(out[:, 3 * scale : 6 * scale, 3 * scale : 6 * scale] - 0.5).max() < 0.03
