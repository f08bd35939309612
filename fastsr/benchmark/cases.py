# SPDX-License-Identifier: Apache-2.0
"""What is timed: one-op plans with the weights of a shipped model, and the shipped models. One list for all runners."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastsr import catalog, modelfile
from fastsr.errors import ModelError
from fastsr.plan import INPUT, OUTPUT, Plan, Step
from fastsr.testing import conv_weights


@dataclass(frozen=True)
class Case:
    """A plan with weights; `upscaled`: its input has already the size of the output (the op runs at HR)."""

    name: str
    plan: Plan
    weights: dict[str, np.ndarray]
    upscaled: int = 1
    frame: tuple[int, int] | None = None
    """width and height of the input where it is measured at a size of its own; others are measured at one size"""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the input for a frame of width x height before upscaling."""
        return self.frame or (width * self.upscaled, height * self.upscaled)


def resize_bicubic(scale: int) -> Case:
    """Bicubic upscaling of Y alone."""
    step = Step("resize_bicubic", (INPUT,), OUTPUT, {}, {"scale": scale})
    return Case(f"resize_bicubic x{scale}", Plan("y", scale, (step,)), {})


def anchored_regression(scale: int) -> Case:
    """The anchored layer of annet with the bicubic step that feeds it (a few per cent).

    The weights of the shipped model make a realistic spread of anchors.
    """
    roles = {role: role for role in ("filters", "atoms", "projections")}
    steps = (
        Step("resize_bicubic", (INPUT,), "bicubic", {}, {"scale": scale}),
        Step("anchored_regression", (INPUT, "bicubic"), OUTPUT, roles, {"scale": scale}),
    )
    weights = _shipped(scale) or random_annet(scale)[1]
    used = {role: weights[role] for role in roles}
    return Case(f"anchored_regression x{scale}", Plan("y", scale, steps), used)


def conv2d(sizes: tuple[int, ...] = (5, 3), maps: int = 64, scale: int = 3) -> Case:
    """annet's integration network: convolutions of the given sizes, `maps` wide, at HR size."""
    steps, weights = _integration(sizes, maps, INPUT)
    name = f"conv2d {'-'.join(str(k) for k in sizes)}, {maps} maps"
    return Case(name, Plan("y", 1, tuple(steps)), weights, scale)


def random_annet(scale: int, sizes: tuple[int, ...] = (5, 3), seed: int = 0) -> tuple[Plan, dict[str, np.ndarray]]:
    """annet with random weights, for when no trained file is there."""
    random = np.random.default_rng(seed)
    n1, f = (28 if scale == 2 else 30), 9
    filters = random.standard_normal((n1, f, f))
    filters -= filters.mean((1, 2), keepdims=True)  # as gradients do, features ignore the brightness
    atoms = random.standard_normal((1024, n1))
    weights = {
        "filters": filters / f,
        "atoms": atoms / np.linalg.norm(atoms, axis=1, keepdims=True),
        "projections": 0.1 * random.standard_normal((1024, 9 * scale * scale, n1)) / n1,
    }
    steps, more = _integration(sizes, 64, "combined")
    head = (
        Step("resize_bicubic", (INPUT,), "bicubic", {}, {"scale": scale}),
        Step("anchored_regression", (INPUT, "bicubic"), "combined", {k: k for k in weights}, {"scale": scale}),
    )
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    return Plan("y", scale, (*head, *steps)), arrays | more


def model(name: str) -> Case:
    """A shipped model."""
    found = modelfile.read(catalog.locate(name))
    return Case(name, found.plan, found.weights)


def models() -> list[Case]:
    """The shipped models, or annet x3 with random weights when there are none."""
    names = [info.name for info in catalog.models()]
    return [model(name) for name in names] or [Case("annet_x3 (random)", *random_annet(3))]


def pconv_block(width: int = 128, bottleneck: int = 64) -> Case:
    """Two blocks of btsrn's between a convolution from and one to RGB, at HR size."""
    block = [(bottleneck, width, 1), (width, bottleneck, 3)]
    shapes = [(width, 3, 1), *block, *block, (3, width, 1)]
    steps = [Step("conv2d", (INPUT,), "v0", {"w": "w0", "b": "b0"})]
    for i in (1, 2):
        roles = {"w1": f"w{2 * i - 1}", "b1": f"b{2 * i - 1}", "w3": f"w{2 * i}", "b3": f"b{2 * i}"}
        steps.append(Step("pconv_block", (f"v{i - 1}",), f"v{i}", roles))
    steps.append(Step("conv2d", ("v2",), OUTPUT, {"w": "w5", "b": "b5"}))
    return Case(f"pconv_block {width}-{bottleneck}, twice", Plan("rgb", 1, tuple(steps)), conv_weights(shapes, 0))


def cista(n0: int = 128, m0: int = 256, steps: int = 3) -> Case:
    """Some recursions of crnet_a's between a convolution from and one to Y, at HR size."""
    arrays = conv_weights([(n0, 1, 3), (m0, n0, 3), (m0, m0, 3), (1, m0, 3)], 0)
    return Case(
        f"cista {n0}-{m0}, {steps} recursions",
        Plan(
            "y",
            1,
            (
                Step("conv2d", (INPUT,), "y", {"w": "w0", "b": "b0"}, {"activation": "relu"}),
                Step("cista", ("y",), "z", {"w": "w1", "s": "w2"}, {"steps": steps}),
                Step("conv2d", ("z",), OUTPUT, {"w": "w3", "b": "b3"}),
            ),
        ),
        arrays,
    )


def upsample_residual(scale: int = 3, width: int = 128) -> Case:
    """btsrn's enlargement between a convolution from and one to RGB."""
    arrays = conv_weights([(width, 3, 1), (3, width, 1)], 0)
    random = np.random.default_rng(1)
    arrays["up"] = (random.standard_normal((width, width, scale, scale)) / np.sqrt(width)).astype(np.float32)
    steps = (
        Step("conv2d", (INPUT,), "maps", {"w": "w0", "b": "b0"}),
        Step("upsample_residual", ("maps",), "large", {"w": "up"}, {"scale": scale}),
        Step("conv2d", ("large",), OUTPUT, {"w": "w1", "b": "b1"}),
    )
    return Case(f"upsample_residual x{scale}, {width} maps", Plan("rgb", scale, steps), arrays)


def pixel_shuffle(scale: int = 2, maps: int = 64) -> Case:
    """crnet_b's enlargement: convolution, shuffle, convolution."""
    arrays = conv_weights([(maps * scale * scale, 3, 3), (3, maps, 3)], 0)
    steps = (
        Step("conv2d", (INPUT,), "wide", {"w": "w0", "b": "b0"}),
        Step("pixel_shuffle", ("wide",), "large", {}, {"scale": scale}),
        Step("conv2d", ("large",), OUTPUT, {"w": "w1", "b": "b1"}),
    )
    return Case(f"pixel_shuffle x{scale}, {maps} maps", Plan("rgb", scale, steps), arrays)


def scale_shift() -> Case:
    """A factor and a summand for each of RGB."""
    arrays = {"scale": np.array([0.9, 1, 1.1], np.float32), "shift": np.array([-0.4, -0.5, -0.6], np.float32)}
    step = Step("scale_shift", (INPUT,), OUTPUT, {"scale": "scale", "shift": "shift"})
    return Case("scale_shift RGB", Plan("rgb", 1, (step,)), arrays)


def networks() -> list[Case]:
    """Whole networks at the sizes and of the widths of their papers, with random weights, on which time does not depend. SPAN has
    its own: the peers' errors grow with a random one's gates.

    Needs torch, for their modules.
    """
    import torch

    from fastsr.families.btsrn import BTSRN
    from fastsr.families.compact import Compact
    from fastsr.families.crnet import CRNetA, CRNetB
    from fastsr.families.rrdb import RRDB
    from fastsr.families.srcnn import SRCNN

    torch.manual_seed(0)
    found = []
    for name, module, frame in (
        ("srcnn 9-1-5 x3", SRCNN(3, (9, 1, 5)), (320, 180)),
        ("srcnn 9-5-5 x3", SRCNN(3, (9, 5, 5)), (320, 180)),
        ("btsrn x3", BTSRN(3), (320, 180)),
        ("crnet_a x2", CRNetA(2), (128, 128)),
        ("crnet_b x2", CRNetB(2), (96, 96)),
        ("compact 64-16 x4", Compact(4, 64, 16), (320, 180)),
        ("compact 64-32 x4", Compact(4, 64, 32), (320, 180)),
        ("rrdb 6 blocks x4", RRDB(4, 6), (128, 128)),
    ):
        if not isinstance(module, (Compact, RRDB)):  # which begin as torch makes them
            module.reset()
        found.append(Case(f"{name} (random)", *module.lower(), frame=frame))
    return [*found, *(replace(model(name), frame=(320, 180)) for name in ("span_x4", "span_small_x4"))]


def ops(scales: tuple[int, ...] = (3,)) -> list[Case]:
    """Every op's cases."""
    found = [make(scale) for make in (resize_bicubic, anchored_regression) for scale in scales]
    return [*found, conv2d(), pconv_block(), cista(), upsample_residual(), pixel_shuffle(), scale_shift()]


def _integration(sizes: tuple[int, ...], maps: int, x: str) -> tuple[list[Step], dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    channels = [1] + [maps] * (len(sizes) - 1) + [1]
    steps, weights, first = [], {}, x
    for i, k in enumerate(sizes):
        last = i + 1 == len(sizes)
        shape = (channels[i + 1], channels[i], k, k)
        w = random.standard_normal(shape) / np.sqrt(channels[i] * k * k) * (0.05 if last else 1)
        weights[f"w{i}"] = w.astype(np.float32)
        weights[f"b{i}"] = (0.1 * random.standard_normal(shape[0]) * (0.05 if last else 1)).astype(np.float32)
        inputs = (x, first) if last else (x,)
        out = OUTPUT if last else f"maps{i}"
        params = {"border": "symmetric", "activation": "none" if last else "relu"}
        steps.append(Step("conv2d", inputs, out, {"w": f"w{i}", "b": f"b{i}"}, params))
        x = out
    return steps, weights


def _shipped(scale: int) -> dict[str, np.ndarray] | None:
    try:
        return model(f"annet_x{scale}").weights
    except ModelError:
        return None
