# SPDX-License-Identifier: Apache-2.0
"""load() and Upscaler: the one place where model file, executor and image handling meet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastsr import _core, catalog, color, executors, image, modelfile
from fastsr.errors import DeviceError, InputError, ModelError
from fastsr.modelfile import ModelFile

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32")


class Upscaler:
    """A loaded model. Calls are independent: one Upscaler may serve many threads at once."""

    def __init__(
        self, model: ModelFile, executor: executors.Executor, prepared: executors.Prepared, options: dict[str, Any]
    ) -> None:
        self._model = model
        self._executor = executor
        self._prepared = prepared
        self._options = options

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def scale(self) -> int:
        return self._model.plan.scale

    def upscale(self, img: Any) -> Any:
        """Enlarge an image `scale` times; the same kind, dtype and layout comes back.

        img: a PIL image; numpy [H, W] or [H, W, 1 | 2 | 3 | 4] of uint8, uint16 or float32 in [0, 1] (2 and 4: the
        last channel is alpha); torch [C, H, W] or [N, C, H, W] float in [0, 1]. Any strides. The input is not written.
        A network on Y gets Y of BT.601 (gray images are Y); chroma and alpha go by bicubic. Integers come back
        rounded, floats clipped to [0, 1].

        Raises InputError for other dtypes and shapes, empty images, NaN, infinity and floats outside [0, 1];
        LimitError when memory_limit is too low.

        >>> fastsr.load("annet_x3").upscale(np.zeros((64, 64, 3), np.uint8)).shape
        (192, 192, 3)
        """
        pictures = image.take(img)
        return image.give_back([self._one(p) for p in pictures], img)

    def run(
        self,
        planes: np.ndarray,  # [C, h, w] f32 in [0, 1], C = 1 for Y, 3 for RGB
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32, not clipped
        """The network alone, with self-ensemble if it was asked for: for evaluation."""
        if not self._options["self_ensemble"]:
            return self._prepared.run(planes)
        # The mean over the 8 flips and turns (paper 002).
        total: np.ndarray | None = None
        for turn in range(8):
            x = np.rot90(planes[:, :, ::-1] if turn >= 4 else planes, turn % 4, (1, 2))
            y = np.rot90(self._prepared.run(np.ascontiguousarray(x)), -(turn % 4), (1, 2))
            y = y[:, :, ::-1] if turn >= 4 else y
            total = y.copy() if total is None else total + y
        assert total is not None
        return total / 8

    def _one(self, picture: image.Picture) -> image.Picture:
        planes, chroma = color.split(picture, self._model.plan.domain)
        out = self.run(planes)
        if not np.isfinite(out).all():
            raise ModelError(f"model '{self.name}' gave values that are not finite for this image")
        return color.join(picture, out, chroma, self._options["threads"])

    def info(self) -> dict[str, Any]:
        """What was loaded and how it runs: plain data, ready for JSON."""
        model = self._model
        return {
            "name": model.name,
            "arch": model.meta["arch"],
            "config": model.json("config"),
            "scale": self.scale,
            "domain": model.plan.domain,
            "executor": self._executor.name,
            "isa": _core.isa(),
            "threads": self._options["threads"],
            "precision": "fp32",
            "self_ensemble": self._options["self_ensemble"],
            "parameters": sum(int(w.size) for w in model.weights.values()),
            "radius": _core.Session(model.plan.to_dict(), dict(model.weights), threads=1).radius,
            "psnr": model.json("psnr"),
            "licence": model.meta["licence"],
            "recipe": model.json("recipe"),
            "file": str(model.path),
        }

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        """Per step of the plan for an h x w input: op, out, shape, radius, flops, bytes, who runs it."""
        return self._prepared.explain(h, w)

    def __repr__(self) -> str:
        return f"<fastsr.Upscaler {self.name} x{self.scale} on {self._executor.name}>"


def load(
    name_or_path: str | Path,
    *,
    scale: int | None = None,
    device: str = "auto",
    executor: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    tile: int | Literal["auto"] = "auto",
    memory_limit: int | None = None,
    self_ensemble: bool = False,
) -> Upscaler:
    """Load a shipped model by name, or a model file by path.

    scale: chooses among models of one name, load("annet", scale=3); must agree with the file's.
    device: "auto" and "cpu"; "cuda" says what is missing. executor: "auto", "cpu", "reference" (torch).
    precision: "auto" or "fp32". threads: default all CPUs this process may use. tile: side of a tile in LR pixels;
    "auto" takes the whole image at once unless memory_limit (bytes) asks for less. Pixels never depend on either.
    self_ensemble: mean over 8 flips and turns, 8 times the work.
    Variables FASTSR_EXECUTOR and FASTSR_THREADS give the defaults of executor and threads.

    Raises ModelError (no such model, broken file), DeviceError (not available here), InputError (bad option).

    >>> fastsr.load("annet_x3").scale
    3
    """
    if device not in DEVICES:
        raise DeviceError(f"device {device!r} is not one of {', '.join(DEVICES)}")
    if device == "cuda":
        raise DeviceError("device 'cuda': the GPU executors are not part of this version of fastsr; use device='cpu'")
    if precision not in PRECISIONS:
        raise DeviceError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if tile != "auto" and (type(tile) is not int or tile < 1):
        raise InputError(f"tile={tile!r} is not 'auto' or a side of at least 1 LR pixel")
    if memory_limit is not None and (type(memory_limit) is not int or memory_limit < 1):
        raise InputError(f"memory_limit={memory_limit!r} is not a number of bytes above 0")
    count = _threads(threads)
    chosen = executor if executor != "auto" else os.environ.get("FASTSR_EXECUTOR", "cpu")
    runner = executors.get(chosen)
    model = modelfile.read(catalog.locate(name_or_path, scale))
    if scale is not None and scale != model.plan.scale:
        raise ModelError(f"model '{model.name}' upscales {model.plan.scale} times, not {scale}")
    reason = runner.supports(model.plan)
    if reason:
        raise DeviceError(f"executor {runner.name!r} cannot run '{model.name}': {reason}")
    prepared = runner.prepare(
        model.plan, model.weights, threads=count, tile=0 if tile == "auto" else tile, memory_limit=memory_limit
    )
    return Upscaler(model, runner, prepared, {"threads": count, "self_ensemble": self_ensemble})


def _threads(threads: int | None) -> int:
    if threads is None and "FASTSR_THREADS" in os.environ:
        text = os.environ["FASTSR_THREADS"]
        if not text.isdecimal():
            raise InputError(f"FASTSR_THREADS={text} is not a number of threads")
        threads = int(text)
    if threads is None:
        return _core.default_threads()
    if type(threads) is not int or not 1 <= threads <= 1024:
        raise InputError(f"threads={threads!r} is not a number from 1 to 1024")
    return threads
