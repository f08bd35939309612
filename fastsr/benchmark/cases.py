# SPDX-License-Identifier: Apache-2.0
"""What is timed: one-op plans with the weights of a shipped model, and the shipped models. One list for all runners."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastsr import catalog, modelfile
from fastsr.errors import ModelError
from fastsr.plan import INPUT, OUTPUT, Plan, Step


@dataclass(frozen=True)
class Case:
    """A plan with weights; `upscaled`: its input has already the size of the output (the op runs at HR)."""

    name: str
    plan: Plan
    weights: dict[str, np.ndarray]
    upscaled: int = 1

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the input for a frame of width x height before upscaling."""
        return width * self.upscaled, height * self.upscaled


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


def ops(scales: tuple[int, ...] = (3,)) -> list[Case]:
    """Every op's cases."""
    found = [make(scale) for make in (resize_bicubic, anchored_regression) for scale in scales]
    return [*found, conv2d()]


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
