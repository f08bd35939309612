# SPDX-License-Identifier: Apache-2.0
"""From a kernel's source to a cubin: one built ahead of time, one from the cache, or one that NVRTC makes now.

A kernel is compiled once per instance (types, channels, stages), which are macros of the source. Its name is a hash of
all it is made of, so that neither a changed source nor another compiler finds an old one. `python -m kernels.cuda.compile
--out DIR` builds the instances of the shipped models with nvcc; CMake calls it (FASTSR_CUDA).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastsr.errors import DeviceError
else:
    try:
        from fastsr.errors import DeviceError
    except ImportError:  # CMake compiles kernels before there is a fastsr to import

        class DeviceError(Exception):
            """Stands in for fastsr's."""


HERE = Path(__file__).parent
AHEAD_OF_TIME = HERE / "cubins"
OPTIONS = ("-std=c++17",)

SHARED_BYTES = {
    "sm_80": 163 << 10, "sm_86": 99 << 10, "sm_87": 163 << 10, "sm_89": 99 << 10, "sm_90a": 227 << 10,
    "sm_100": 227 << 10, "sm_103": 227 << 10, "sm_120": 99 << 10,
}  # fmt: skip
"""architecture -> shared memory that one block may have (CUDA C++ Programming Guide, table of compute capabilities);
sm_90a: with wgmma and setmaxnreg, which no later device has"""
LEAST_SHARED_BYTES = min(SHARED_BYTES.values())
"""what every architecture from sm_80 on has"""

SHIPPED = ("anchored_regression", "cista", "pconv_block")
TARGETS = ("sm_80", "sm_90a", "sm_100")
THREADS = 256
"""of a block, where an instance says nothing else"""


class KernelError(DeviceError, RuntimeError):
    """A kernel cannot be compiled, loaded or launched; the message says why and what to do. `log` is the compiler's.

    A RuntimeError too, as torch's own failures on a device are: who tries another kernel catches both by one name.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Instance:
    """One kernel to compile: `<source>.cu` with its macros; the entry has the source's name."""

    source: str
    defines: tuple[tuple[str, str | int], ...]
    threads: int = THREADS

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(f"-DFASTSR_{name}={value}" for name, value in self.defines)


@functools.cache
def _text(source: str) -> str:
    """The source and all headers, which it may include."""
    return "".join(path.read_text() for path in (HERE / f"{source}.cu", *sorted(HERE.glob("*.cuh"))))


def file_name(instance: Instance, arch: str, compiler: str) -> str:
    """`compiler` is "" for a cubin that was built ahead of time, whichever nvcc did."""
    parts = (_text(instance.source), *instance.options, *OPTIONS, arch, compiler)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    return f"{instance.source}-{arch}-{digest}.cubin"


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastsr" / "cubins"


def cubin(instance: Instance, arch: str) -> Path:
    """The file of a compiled instance. Raises KernelError."""
    path = AHEAD_OF_TIME / file_name(instance, arch, "")
    if path.exists():
        return path
    path = cache_folder() / file_name(instance, arch, nvrtc_version())
    if not path.exists():
        code, _ = nvrtc(instance, arch)
        try:
            write(path, code)
        except OSError as error:
            raise KernelError(
                f"cannot write {path} ({error.strerror}); set XDG_CACHE_HOME to a folder that can be"
            ) from None
    return path


def write(path: Path, code: bytes) -> None:
    """Beside its place, then renamed: processes that compile the same instance at once do no harm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@functools.cache
def nvrtc_version() -> str:
    """Raises KernelError where there is no NVRTC."""
    try:
        from cupy.cuda import nvrtc as library

        major, minor = library.getVersion()
    except ImportError as error:
        raise KernelError(f"the CUDA kernels need cupy: pip install 'fastsr[gpu]' ({error})") from None
    except Exception as error:  # cupy's loader has errors of its own
        raise KernelError(f"cupy finds no NVRTC: pip install nvidia-cuda-nvrtc ({error})") from None
    return f"nvrtc {major}.{minor}"


def nvrtc(instance: Instance, arch: str, extra: Iterable[str] = ()) -> tuple[bytes, str]:
    """A cubin and the compiler's log, no GPU needed. Raises KernelError."""
    version = nvrtc_version()
    from cupy.cuda import nvrtc as library

    known = {f"sm_{number}" for number in library.getSupportedArchs()}
    if arch.rstrip("a") not in known:
        raise KernelError(f"{version} does not know {arch}, only {', '.join(sorted(known))}; install a newer one")
    source = HERE / f"{instance.source}.cu"
    options = (f"-arch={arch}", *OPTIONS, f"-I{HERE}", *instance.options, *extra)
    program = library.createProgram(source.read_text(), source.name, [], [])
    try:
        library.compileProgram(program, options)
        return library.getCUBIN(program), library.getProgramLog(program)
    except library.NVRTCError as error:
        log = library.getProgramLog(program)
        raise KernelError(
            f"{version} cannot compile {source.name} for {arch}: {error}: {_first_error(log)}", log
        ) from None
    finally:
        library.destroyProgram(program)


def nvcc(instance: Instance, arch: str, to: Path, compiler: str = "nvcc") -> str:
    """Compile with the toolkit's compiler; returns its log with registers, shared memory and spills."""
    target = f"arch={arch.replace('sm', 'compute')},code={arch}"
    command = [compiler, "-cubin", "-gencode", target, "-Xptxas", "-v", *OPTIONS, *instance.options]
    result = subprocess.run(
        [*command, f"-I{HERE}", str(HERE / f"{instance.source}.cu"), "-o", str(to)], capture_output=True, text=True
    )
    if result.returncode:
        why = _first_error(result.stderr)
        raise KernelError(f"{' '.join(command)} of {instance.source}.cu failed: {why}", result.stderr)
    return result.stderr


def _first_error(log: str) -> str:
    """The line of a compiler's log that says what is wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no log")


def shipped(arch: str) -> list[Instance]:
    """The instances that the shipped models need on an architecture."""
    found: list[Instance] = []
    for op in SHIPPED:
        found += importlib.import_module(f"{__package__}.{op}").instances(arch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile the instances of the shipped models with nvcc.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--arch", nargs="+", default=TARGETS, choices=sorted(SHARED_BYTES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    def make(arch: str, instance: Instance) -> Path:
        path: Path = options.out / file_name(instance, arch, "")
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            nvcc(instance, arch, temporary, options.nvcc)
            os.replace(temporary, path)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kept = set(pool.map(lambda pair: make(*pair), [(a, i) for a in options.arch for i in shipped(a)]))
    for path in options.out.glob("*.cubin"):
        if path not in kept:  # of an earlier source
            path.unlink()
    print(f"{len(kept)} cubins in {options.out}, built by {shutil.which(options.nvcc)}")


if __name__ == "__main__":
    main()
