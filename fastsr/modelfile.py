# SPDX-License-Identifier: Apache-2.0
"""Model files: one .safetensors with weights, the plan and metadata. `fastsr._core` reads them, here they are written."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastsr import _core
from fastsr.errors import ModelError, OutputError
from fastsr.plan import Plan

FORMAT = "1"
GOLDEN_SHAPE = (8, 8)


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory: its plan, its weights as float32 (those of a file are read-only), its metadata."""

    path: Path
    plan: Plan
    weights: dict[str, np.ndarray]
    meta: dict[str, str]

    @property
    def name(self) -> str:
        return self.meta["name"]

    def json(self, key: str) -> Any:
        """The parsed value of a metadata key that holds JSON (config, recipe, psnr, golden)."""
        try:
            return json.loads(self.meta[key])
        except ValueError:
            raise ModelError(f"{self.path}: metadata '{key}' is not valid JSON") from None


def read(path: str | Path) -> ModelFile:
    """Read and check a model file.

    Raises ModelError, one line, for everything that can be wrong: not a regular file, too large, a header that is cut
    or lies about sizes, dtypes other than F32 and F16, weights that are missing, extra or not finite, a bad plan. Of a
    file of another kind it says what it seems to be.

    >>> read("annet_x3.safetensors").plan.scale
    """
    path = Path(path)
    plan, weights, meta = _core.read_model(_encoded(path))
    return ModelFile(path, Plan.from_dict(plan), weights, meta)


def read_meta(path: str | Path) -> dict[str, str]:
    """The metadata alone, without reading the weights: for listing. Raises ModelError."""
    return _core.read_metadata(_encoded(Path(path)))


def write(
    path: str | Path,
    plan: Plan,
    weights: Mapping[str, np.ndarray],
    *,
    name: str,
    arch: str,
    config: Mapping[str, Any],
    licence: str,
    recipe: Mapping[str, Any],
    psnr: Mapping[str, Any],
    half: Collection[str] = (),
) -> None:
    """Write a model file beside `path` and rename it there. Tensors named in `half` are stored as float16.

    The golden output is computed by the reference executor when torch is at hand, else left out. Raises ModelError for
    what `read` would refuse, OutputError when the file cannot be written.
    """
    stored = {
        key: np.ascontiguousarray(weights[key], dtype=np.float16 if key in half else np.float32)
        for key in plan.tensor_names
    }
    used = {key: value.astype(np.float32) for key, value in stored.items()}
    for key, value in used.items():
        if not np.isfinite(value).all():
            raise ModelError(f"tensor '{key}' is not finite: it will not be written")
    meta = {
        "fastsr": FORMAT,
        "name": name,
        "arch": arch,
        "config": json.dumps(dict(config)),
        "scale": str(plan.scale),
        "domain": plan.domain,
        "plan": plan.to_json(),
        "licence": licence,
        "recipe": json.dumps(dict(recipe)),
        "psnr": json.dumps(dict(psnr)),
        "golden": json.dumps(_golden(plan, used)),
    }
    raw = serialized(stored, meta)
    _core.parse_model(raw, "the model")
    _replace(Path(path), raw)


def update(path: str | Path, **changes: Mapping[str, Any]) -> None:
    """Rewrite metadata keys that hold JSON (psnr, recipe), keeping the tensors byte for byte."""
    path = Path(path)
    read(path)  # from here on the file is known to be well-formed
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    for key, value in changes.items():
        header["__metadata__"][key] = json.dumps(dict(value))
    raw = _joined(header, raw[begin:])
    _core.parse_model(raw, "the model")
    _replace(path, raw)


FAR, NEAR = 1e-3, 2e-4
"""distance from a tie in 8-bit levels: enough to look no further, and the least (8e-7 of the range)"""


def golden_input(plan: Plan, seed: int) -> np.ndarray:
    """The seeded image [C, 8, 8] whose output's digest a model file carries."""
    rng = np.random.default_rng(seed)
    return rng.random((plan.channels, *GOLDEN_SHAPE), dtype=np.float32)


def digest(out: np.ndarray) -> str:
    """SHA-256 of an output rounded to 8 bit."""
    import hashlib

    return hashlib.sha256(np.floor(np.clip(out, 0, 1) * 255 + 0.5).astype(np.uint8).tobytes()).hexdigest()


def verify(model: ModelFile, executor: str = "cpu") -> None:
    """Run the golden input and compare. Raises ModelError when the output is not the one recorded."""
    from fastsr import executors

    golden = model.json("golden")
    if not {"seed", "sha256"} <= set(golden) or type(golden["seed"]) is not int or golden["seed"] < 0:
        raise ModelError(f"{model.path}: carries no golden output to verify")
    out = executors.get(executor).prepare(model.plan, model.weights).run(golden_input(model.plan, golden["seed"]))
    if digest(out) != golden["sha256"]:
        raise ModelError(
            f"{model.path}: the golden output differs: the weights were changed or executor {executor} is wrong"
        )


def _golden(plan: Plan, weights: dict[str, np.ndarray]) -> dict[str, Any]:
    from fastsr import executors

    try:
        reference = executors.get("reference").prepare(plan, weights, precision="fp64")
        best: tuple[float, int, str] = (0.0, 0, "")
        for seed in range(64):
            out = reference.run(golden_input(plan, seed))
            level = np.clip(out, 0, 1) * 255 + 0.5
            distance = float(np.abs(level - np.round(level)).min())
            best = max(best, (distance, seed, digest(out)))
            if distance > FAR:
                break
        # Away from every rounding tie, so that a right fp32 executor gives the same bytes.
        if best[0] > NEAR:
            return {"seed": best[1], "shape": list(GOLDEN_SHAPE), "sha256": best[2]}
    except ModuleNotFoundError:
        pass
    return {}


def _encoded(path: Path) -> bytes:
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        raise ModelError(f"{path}: cannot be read: no file can have this name") from None


def serialized(tensors: Mapping[str, np.ndarray], meta: Mapping[str, str]) -> bytes:
    """The bytes of a .safetensors: wider tensors first, so that each is aligned to its items."""
    header: dict[str, Any] = {"__metadata__": dict(meta)}
    data = b""
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        end = len(data) + array.nbytes
        dtype = {2: "F16", 4: "F32"}[array.itemsize]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.astype(array.dtype.newbyteorder("<")).tobytes()
    return _joined(header, data)


def _joined(header: Mapping[str, Any], data: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _replace(path: Path, raw: bytes) -> None:
    temporary = path.parent / f".fastsr-{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "wb") as f:
            f.write(raw)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
