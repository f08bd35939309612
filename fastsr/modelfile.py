# SPDX-License-Identifier: Apache-2.0
"""Model files: one .safetensors with weights, the plan and metadata. Everything is checked before it is used."""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastsr.errors import ModelError, OutputError
from fastsr.plan import Plan

FORMAT = "1"
JSON_KEYS = ("config", "recipe", "psnr", "golden")
KEYS = ("fastsr", "name", "arch", "config", "scale", "domain", "plan", "licence", "recipe", "psnr", "golden")
MAX_FILE = 512 << 20
MAX_HEADER = 1 << 20
MAX_TENSORS = 4096
ITEM_BYTES = {"F32": 4, "F16": 2}
GOLDEN_SHAPE = (8, 8)


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory: its plan, its weights as float32, its metadata."""

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
    or lies about sizes, dtypes other than F32 and F16, weights that are missing, extra or not finite, a bad plan.

    >>> read("annet_x3.safetensors").plan.scale
    """
    path = Path(path)
    raw = _bytes(path)
    header, data = _header(path, raw)
    meta = _metadata(path, header.pop("__metadata__", None))
    weights = _tensors(path, header, data)
    try:
        plan = Plan.from_json(meta["plan"])
    except ModelError as e:
        raise ModelError(f"{path}: {e}") from None
    expected = set(plan.tensor_names)
    if expected != set(weights):
        missing, extra = sorted(expected - set(weights)), sorted(set(weights) - expected)
        raise ModelError(f"{path}: tensors do not fit the plan (missing: {missing[:4]}, not used: {extra[:4]})")
    if meta["scale"] != str(plan.scale) or meta["domain"] != plan.domain:
        raise ModelError(f"{path}: metadata says scale {meta['scale']}, {meta['domain']}; the plan says otherwise")
    return ModelFile(path, plan, weights, meta)


def read_meta(path: str | Path) -> dict[str, str]:
    """The metadata alone, without reading the weights: for listing. Raises ModelError."""
    path = Path(path)
    try:
        with open(path, "rb") as f:
            size = int.from_bytes(f.read(8), "little")
            if size > MAX_HEADER:
                raise ModelError(f"{path}: the header claims {size} bytes, the limit is {MAX_HEADER}")
            return _metadata(path, _json(path, f.read(size)).get("__metadata__"))
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror}") from None


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

    The golden output is computed by the reference executor when torch is at hand, else left out.
    """
    from safetensors.numpy import save

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
    _replace(Path(path), save(stored, meta))


def update(path: str | Path, **changes: Mapping[str, Any]) -> None:
    """Rewrite metadata keys that hold JSON (psnr, recipe), keeping the tensors byte for byte."""
    path = Path(path)
    raw = _bytes(path)
    header, data = _header(path, raw)
    for key, value in changes.items():
        header["__metadata__"][key] = json.dumps(dict(value))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    _replace(path, len(text).to_bytes(8, "little") + text + bytes(data))


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


def _bytes(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(fd, "rb") as f:
            info = os.fstat(f.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ModelError(f"{path}: not a regular file")
            if info.st_size > MAX_FILE:
                raise ModelError(f"{path}: {info.st_size} bytes, the limit for a model file is {MAX_FILE}")
            return f.read(MAX_FILE + 1)
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror}") from None
    except ValueError as e:  # a NUL in the name
        raise ModelError(f"{str(path)!r}: cannot be read: {e}") from None


def _metadata(path: Path, meta: object) -> dict[str, str]:
    """The metadata of a fastsr model file: all keys there, all strings, JSON where JSON is due."""
    if not isinstance(meta, dict) or any(not isinstance(meta.get(key), str) for key in KEYS):
        raise ModelError(f"{path}: this is not a fastsr model file (metadata {', '.join(KEYS)} expected)")
    if meta["fastsr"] != FORMAT:
        raise ModelError(
            f"{path}: format {meta['fastsr']!r} is not known to this fastsr ({FORMAT!r} is): update fastsr"
        )
    if not meta["scale"].isdecimal():
        raise ModelError(f"{path}: metadata 'scale' is {meta['scale']!r}, expected a whole number")
    for key in JSON_KEYS:
        _json(path, meta[key].encode("utf-8", "surrogatepass"), f"metadata '{key}'")
    return meta


def _json(path: Path, text: bytes, what: str = "the header") -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    def no_constants(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constants)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path}: {what} is not valid JSON ({e})") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: {what} is not a JSON object")
    return header


def _header(path: Path, raw: bytes) -> tuple[dict[str, Any], memoryview]:
    if raw[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelError(
            f"{path}: this is a pickle or zip archive (.pth?): use `fastsr convert` to make a model file of it"
        )
    if len(raw) > MAX_FILE:
        raise ModelError(f"{path}: grew above the limit for a model file, {MAX_FILE} bytes, while it was read")
    if len(raw) < 8:
        raise ModelError(f"{path}: {len(raw)} bytes is too short for a model file")
    size = int.from_bytes(raw[:8], "little")
    if size > MAX_HEADER or size > len(raw) - 8:
        raise ModelError(f"{path}: the header claims {size} bytes; the file has {len(raw)}: cut, or not a model file")
    return _json(path, raw[8 : 8 + size]), memoryview(raw)[8 + size :]


def _tensors(path: Path, header: dict[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    if len(header) > MAX_TENSORS:
        raise ModelError(f"{path}: {len(header)} tensors, the limit is {MAX_TENSORS}")
    spans, weights = [], {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ModelError(f"{path}: tensor '{name}' is malformed")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
            raise ModelError(f"{path}: tensor '{name}' has dtype {dtype!r}, expected F32 or F16")
        for numbers in (shape, offsets):
            if not isinstance(numbers, list) or any(type(n) is not int or n < 0 for n in numbers):
                raise ModelError(f"{path}: tensor '{name}' has a malformed shape or offsets")
        if len(offsets) != 2 or len(shape) > 4 or 0 in shape:
            raise ModelError(f"{path}: tensor '{name}' has a malformed shape or offsets")
        begin, end = offsets
        if end > len(data) or end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
            raise ModelError(
                f"{path}: tensor '{name}' says {shape} {dtype} at {begin}..{end}, which does not fit the file"
            )
        spans.append((begin, end))
        array = np.frombuffer(data[begin:end], "<f4" if dtype == "F32" else "<f2").reshape(shape)
        if not np.isfinite(array).all():
            raise ModelError(f"{path}: tensor '{name}' holds NaN or infinity")
        weights[name] = np.require(array, np.float32, ["C", "A"])
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ModelError(f"{path}: tensors overlap or leave a gap at byte {at}")
        at = end
    if at != len(data):
        raise ModelError(f"{path}: {len(data) - at} bytes after the last tensor")
    return weights


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
