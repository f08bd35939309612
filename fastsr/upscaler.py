# SPDX-License-Identifier: Apache-2.0
"""load() and Upscaler: the one place where model file and engine meet."""

from __future__ import annotations

import operator
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastsr import _core, catalog, executors, image, modelfile
from fastsr.engine import Engine, Job, stream
from fastsr.errors import DeviceError, InputError, ModelError
from fastsr.modelfile import ModelFile

FOREIGN = (".mat", ".pth", ".pt", ".ckpt", ".param", ".pb")
"""checkpoints of others, converted in memory (torch's need the extra `train`)"""


class Upscaler:
    """A loaded model. Calls are independent: one Upscaler may serve many threads at once."""

    def __init__(
        self,
        model: ModelFile,
        executor: str,
        engine: Engine,
        options: dict[str, Any],  # threads, precision, self_ensemble
        again: Callable[[], Upscaler],  # loads the same once more
    ) -> None:
        self._model, self._executor, self._engine = model, executor, engine
        self._options, self._again = options, again

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def scale(self) -> int:
        return self._model.plan.scale

    @property
    def domain(self) -> str:
        """What the network reads: "y" or "rgb"."""
        return self._model.plan.domain

    def upscale(self, img: Any) -> Any:
        """Enlarge an image `scale` times; the same kind, dtype and layout comes back.

        img: a PIL image; numpy [H, W] or [H, W, 1 | 2 | 3 | 4] of uint8, uint16, float32 or float64 in [0, 1] (2 and 4: the
        last channel is alpha); torch [C, H, W] or [N, C, H, W] of uint8, uint16 or float in [0, 1]. Any strides. The input is not written.
        On a GPU a torch batch is one run, and a tensor that lies there stays there. Several GPUs divide a batch, and a
        single image's self-ensemble; otherwise the first takes it.
        A network on Y gets Y of BT.601, gray being RGB of equal channels; chroma and alpha go by bicubic. Colours under alpha 0 do not bleed into what is seen. Integers come back
        rounded, floats clipped to [0, 1]. PIL: L, LA, RGB, RGBA, I;16, I (16 bit) and F ([0, 1]) keep their mode; 1 comes
        back as L, palettes, CMYK and others as RGB or RGBA.

        Raises InputError for other dtypes and shapes, empty images, NaN, infinity and floats outside [0, 1] by more
        than 0.001; LimitError for outputs above 2^30 pixels and when memory_limit is too low.

        >>> fastsr.load("annet_x3").upscale(np.zeros((64, 64, 3), np.uint8)).shape
        (192, 192, 3)
        """
        begin = time.perf_counter()
        out = self._engine.upscale(img)
        size = "x".join(map(str, img.shape if hasattr(img, "shape") else img.size))
        _log(f"{self.name}: {size} in {1e3 * (time.perf_counter() - begin):.1f} ms")
        return out

    def stream(self, images: Iterable[Any], *, return_exceptions: bool = False) -> Generator[Any, None, None]:
        """Enlarge many images, or the frames of a video: a generator of what `upscale` gives for each, in order.

        images: any iterable of what `upscale` takes, of mixed kinds and sizes. On a GPU three are on their way at once (to
        it, on it, back) and several GPUs take turns; on the CPU two, one in the network while the next is read and the last is
        written. As many images are taken ahead of the result that is given. An image may be written again as soon as the
        next one is asked for.

        A bad image raises when its turn comes, after the results before it; that ends the stream. With
        return_exceptions=True the FastsrError stands in the place of the result instead, and the stream goes on. What the
        iterable raises ends it always. What is on its way when a generator is closed early is stopped, or on a GPU waited for.

        >>> for frame in fastsr.load("annet_x3").stream(frames): show(frame)
        """
        alone = image.is_tensor(images) or isinstance(images, np.ndarray)
        if not isinstance(images, Iterable) or (alone and images.ndim < 4):  # type: ignore[attr-defined]
            what = f"one of shape {tuple(images.shape)}" if alone else f"a {type(images).__name__}"  # type: ignore[attr-defined]
            raise InputError(f"stream() takes an iterable of images, not {what}: give a list")
        return stream(self._engine.queue(), images, return_exceptions)

    def run(
        self,
        planes: np.ndarray,  # [C, h, w] f32 in [0, 1], C = 1 for Y, 3 for RGB
    ) -> np.ndarray:  # [C, h * scale, w * scale] f32, not clipped
        """The network alone, with self-ensemble if it was asked for: for evaluation."""
        return self._engine.run(planes)

    def info(self) -> dict[str, Any]:
        """What was loaded and how it runs: plain data, ready for JSON."""
        model = self._model
        return {
            "name": model.name,
            "arch": model.meta["arch"],
            "config": model.json("config"),
            "scale": self.scale,
            "domain": self.domain,
            "executor": self._executor,
            "isa": self._engine.isa,
            "threads": self._options["threads"],
            "precision": self._options["precision"],
            "self_ensemble": self._options["self_ensemble"],
            "parameters": sum(int(w.size) for w in model.weights.values()),
            "radius": self._engine.radius,
            "psnr": model.json("psnr"),
            "licence": model.meta["licence"],
            "recipe": model.json("recipe"),
            "file": str(model.path),
        }

    @property
    def busy(self) -> float:
        """Seconds that the network ran, of all calls together; 0 on GPUs, which do not count."""
        return self._engine.busy

    def memory(self, h: int, w: int) -> int:
        """Bytes that the engine holds for an h x w input, packed weights included; 0 where it does not say."""
        return self._engine.memory(h, w)

    def explain(self, h: int, w: int) -> list[dict[str, Any]]:
        """Per step of the plan for an h x w input: op, out, shape, radius, flops, bytes, who runs it."""
        return self._engine.explain(h, w)

    def tune(self, h: int, w: int, n: int = 1) -> list[dict[str, Any]]:
        """Time the kernels' candidates on the GPU for n images of h x w; the fastest right ones are used from now on.

        They are kept in the user's cache folder (docs/architecture.md). Returns what was tried. Raises DeviceError on a CPU.
        """
        return self._engine.tune(n, h, w)

    def __reduce__(self) -> tuple[Callable[[], Upscaler], tuple[()]]:
        """Pickles and copies are loaded anew, from the same file with the same arguments, where they are made."""
        return self._again, ()

    def __repr__(self) -> str:
        return f"<fastsr.Upscaler {self.name} x{self.scale} on {self._executor}>"


def find(name_or_path: str | Path, scale: int | None = None) -> ModelFile:
    """The model that `load` would load. Raises ModelError, and what a reader of checkpoints raises."""
    path = catalog.locate(name_or_path, scale)
    if path.suffix.lower() in FOREIGN:
        from fastsr import convert

        model = convert.as_model(path, scale)
    else:
        model = modelfile.read(path)
    if scale is not None and scale != model.plan.scale:
        raise ModelError(f"model '{model.name}' upscales {model.plan.scale} times, not {scale}")
    return model


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
    """Load a shipped model by name, or a model file by path, or a checkpoint that `fastsr convert` knows (.mat, .pth, ncnn's
    .param with the .bin beside it).

    scale: chooses among models of one name, load("annet", scale=3); must agree with the file's.
    device: "cpu"; "cuda" or "cuda:1", an NVIDIA GPU (extra `gpu`), or DeviceError that says what is missing; "cuda:0,1" or
    "cuda:all", several; "auto", the first GPU if there is one. executor: "auto", "cpu", "reference" (torch); on a GPU
    "gpu", per step what measured faster of "triton" and "cuda" (CUDA C++ before Triton).
    precision: "auto" (fp32), "fp32", or "bf16" (wide convolutions in bfloat16 products summed in fp32: two times as fast
    where the CPU has AMX, 60 dB from fp32; DeviceError on CPUs without AVX-512-BF16); on a GPU also "fp16", "tf32", fp32
    with products rounded to 10 bits of mantissa, and "fp8", fp16 with 8-bit products (e4m3) in CRNet's recursions and
    BTSRN's blocks at output size (at most 0.01 dB of PSNR on Set5; DeviceError below compute capability 8.9).
    threads: default all CPUs this process may use. tile: side of a tile in LR pixels; "auto" takes the whole image at once
    unless memory_limit (bytes) asks for less, or a GPU's memory does. Pixels never depend on either.
    self_ensemble: mean over 8 flips and turns, 8 times the work.
    Variables FASTSR_EXECUTOR and FASTSR_THREADS give the defaults of executor and threads; FASTSR_LOG=1 reports on stderr.

    Raises ModelError (no such model, broken file), DeviceError (not available here), InputError (bad option).

    >>> fastsr.load("annet_x3").scale
    3
    """
    side = 0 if tile == "auto" else _count("tile", tile, 1 << 30, "'auto' or a side in LR pixels")
    limit = None if memory_limit is None else _count("memory_limit", memory_limit, 1 << 60, "a number of bytes")
    count = _threads(threads)
    runner, place, reason = _executor(device, executor)
    if reason:
        _log(reason)
    model = find(name_or_path, scale)
    unsupported = runner.supports(model.plan)
    if unsupported:
        raise DeviceError(f"executor {runner.name!r} cannot run '{model.name}': {unsupported}")
    exact = "fp32" if precision == "auto" else precision
    try:
        prepared = runner.prepare(
            model.plan, model.weights, threads=count, tile=side, memory_limit=limit, precision=exact, **place
        )
    except ModelError as e:
        raise ModelError(f"{model.path}: {e}") from None
    _log(f"{model.name} from {model.path}: executor {runner.name}, {prepared.isa}, {count} threads")
    job = Job(model.name, model.plan.domain, model.plan.scale, self_ensemble, count)
    options = {"threads": count, "self_ensemble": self_ensemble, "precision": exact}
    again = partial(
        load,
        str(model.path.absolute()),
        scale=scale,
        device=device,
        executor=executor,
        precision=precision,
        threads=threads,
        tile=tile,
        memory_limit=memory_limit,
        self_ensemble=self_ensemble,
    )
    return Upscaler(model, runner.name, prepared.engine(job), options, again)


def _count(name: str, value: Any, most: int, what: str) -> int:
    """`value` as an int from 1 to `most`, whatever integer type it has."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number <= most:
        raise InputError(f"{name}={value!r} is not {what} from 1 to {most}")
    return number


def _threads(threads: int | None) -> int:
    if threads is not None:
        return _count("threads", threads, 1024, "a number of threads")
    text = os.environ.get("FASTSR_THREADS", "")
    if not text:
        return _core.default_threads()
    return _count("FASTSR_THREADS", int(text) if text.isdecimal() else text, 1024, "a number of threads")


def _executor(device: str, name: str) -> tuple[executors.Executor, dict[str, str], str]:
    variable = os.environ.get("FASTSR_EXECUTOR", "") or "auto"
    if name == "auto" and variable != "auto":
        try:
            return executors.choose(device, variable)
        except DeviceError as e:
            raise DeviceError(f"FASTSR_EXECUTOR: {e}") from None
    return executors.choose(device, name)


def _log(line: str) -> None:
    """One line to stderr when FASTSR_LOG=1."""
    if os.environ.get("FASTSR_LOG", "0") not in ("", "0"):
        print(f"fastsr: {line}", file=sys.stderr)
