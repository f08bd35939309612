# SPDX-License-Identifier: Apache-2.0
"""Every instance of the shipped models compiles for every target, without spills and within the device's limits."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastsr.errors import FastsrError
from fastsr.kernels.cuda import cista, compile, layout, pconv_block
from fastsr.kernels.cuda.compile import SHARED_BYTES, TARGETS, Instance, KernelError

REGISTERS = {"anchored_regression": 128, "cista": 255, "cista_wgmma": 168, "pconv_block": 255}
"""of a thread: two blocks of 256 an SM, one, one of 384 (which setmaxnreg then shares out), one"""

OTHERS = (
    Instance("pconv_block", (("T", "Bf16"), ("C", 48), ("M", 16), ("STAGES", 4))),
    Instance("pconv_block", (("T", "Fp16"), ("C", 96), ("M", 48), ("STAGES", 2))),
    Instance("cista", (("T", "Bf16"), ("CHUNK", 16), ("N", 16), ("STAGES", 4))),
    Instance("cista", (("T", "Fp16"), ("CHUNK", 32), ("N", 128), ("STAGES", 4))),
    Instance("anchored_regression", (("T", "Fp32"), ("P", "Fp32"), ("SCALE", 4), ("FILTER", 13))),
)
"""what no shipped model uses, and other devices than the targets"""


def others(arch: str) -> list[Instance]:
    if arch != cista.WGMMA_ARCH:
        return [*OTHERS]
    return [*OTHERS, *(cista.choose_wgmma(name, "Fp16", SHARED_BYTES[arch])[0] for name in cista.WGMMA)]


def no_nvrtc() -> str | None:
    try:
        compile.nvrtc_version()
    except KernelError as error:
        return str(error)
    return None


def run_side_by_side(check: Callable[[Instance], None], instances: list[Instance]) -> None:
    """Compilers release the interpreter's lock, or are processes of their own."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, instances))


def check_log(instance: Instance, log: str) -> None:
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert spills == [("0", "0", "0")], f"{instance}: {log}"
    (registers,) = re.findall(r"Used (\d+) registers", log)
    assert int(registers) <= REGISTERS[instance.source], log
    # ptxas says so where it must make wgmma wait for each other, or does not heed setmaxnreg.
    assert "warning" not in log.lower(), log
    assert "wgmma" not in instance.source or not re.search(r"C75\d\d|serializ|setmaxnreg", log), log
    # All shared memory is dynamic: what the launchers count is all there is.
    assert "bytes smem" not in log, log


@pytest.mark.parametrize("arch", TARGETS)
def test_nvrtc_compiles_every_instance(arch: str) -> None:
    if reason := no_nvrtc():
        pytest.skip(reason)

    def check(instance: Instance) -> None:
        code, log = compile.nvrtc(instance, arch, ("--ptxas-options=-v",))
        assert code.startswith(b"\x7fELF")
        check_log(instance, log)

    run_side_by_side(check, [*compile.shipped(arch), *others(arch)])


def test_the_version_is_the_one_that_was_asked_for() -> None:
    """.ci/run preloads the oldest NVRTC that the extra `gpu` allows, and says which."""
    wanted = os.environ.get("FASTSR_NVRTC")
    if not wanted:
        pytest.skip("FASTSR_NVRTC is not set")
    assert compile.nvrtc_version() == f"nvrtc {wanted}"


def test_no_kernel_has_a_generic_lambda() -> None:
    """NVRTC 13.0, which GPU machines have, takes its call operator for a function of the host, and compiles none."""
    for path in sorted(compile.HERE.glob("*.cu*")):
        assert not re.search(r"\[[^\[\]]*\]\s*\([^()]*\bauto\b", path.read_text()), path.name


@pytest.mark.parametrize("arch", TARGETS)
def test_nvcc_compiles_every_kernel(arch: str, tmp_path: Path) -> None:
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc")
    shipped = compile.shipped(arch)
    sources = dict.fromkeys(i.source for i in shipped)
    # One instance of each kernel where NVRTC has compiled all.
    chosen = [*shipped, *others(arch)] if no_nvrtc() else [next(i for i in shipped if i.source == op) for op in sources]

    def check(instance: Instance) -> None:
        path = tmp_path / compile.file_name(instance, arch, "")
        check_log(instance, compile.nvcc(instance, arch, path))
        assert path.read_bytes().startswith(b"\x7fELF")

    run_side_by_side(check, chosen)


@pytest.mark.parametrize("arch", sorted(SHARED_BYTES))
def test_shared_memory_is_within_every_device(arch: str) -> None:
    """All that `supports` grants has an instance on every device."""
    limit = SHARED_BYTES[arch]
    for c in filter(layout.tile_channels, range(16, 129, 16)):
        for m in range(16, 65, 16):
            assert pconv_block.choose(c, m, "Bf16", limit)[1] <= limit
    for n0 in range(16, 257, 16):
        for m0 in range(16, 257, 16):
            assert cista.choose(n0, m0, "Bf16", limit)[1] <= limit
    for name in cista.WGMMA if arch == cista.WGMMA_ARCH else ():
        assert cista.choose_wgmma(name, "Bf16", limit)[1] <= limit
    anchored = importlib.import_module("fastsr.kernels.cuda.anchored_regression")
    for scale in anchored.SCALES:
        assert anchored.shared_bytes(scale, anchored.LARGEST_FILTER, anchored.MOST_ATOMS) <= limit


def test_no_shipped_width_lacks_stages() -> None:
    assert dict(pconv_block.choose(128, 64, "Bf16", SHARED_BYTES["sm_90a"])[0].defines)["STAGES"] == 4
    assert dict(pconv_block.choose(128, 64, "Bf16", SHARED_BYTES["sm_89"])[0].defines)["STAGES"] == 2
    assert dict(cista.choose(1024, 1024, "Bf16", SHARED_BYTES["sm_80"])[0].defines)["CHUNK"] == 64
    with pytest.raises(KernelError, match="bytes of shared memory, not 65536"):
        pconv_block.choose(128, 64, "Bf16", 64 << 10)


def test_the_order_of_channels_is_a_permutation_with_runs() -> None:
    for n in filter(layout.tile_channels, range(16, 129, 16)):
        order = layout.channel_order(n)
        assert sorted(order) == list(range(n))
        group = 4 if (n // 2 if n > 64 else n) % 32 == 0 else 2
        for lane in range(4):  # columns 2t and 2t + 1 of the first group of mma
            held = [order[mma * 8 + 2 * lane + i] for mma in range(group) for i in range(2)]
            assert held == list(range(held[0], held[0] + 2 * group))


def test_cubins_are_compiled_once_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compile, "AHEAD_OF_TIME", tmp_path / "ahead")
    monkeypatch.setattr(compile, "nvrtc_version", lambda: "nvrtc 99.9")
    made: list[str] = []

    def nvrtc(instance: Instance, arch: str) -> tuple[bytes, str]:
        made.append(f"{instance.source} {arch}")
        return b"code", ""

    monkeypatch.setattr(compile, "nvrtc", nvrtc)
    first, other = OTHERS[:2]
    path = compile.cubin(first, "sm_80")
    assert path.read_bytes() == b"code"
    assert path == compile.cubin(first, "sm_80")
    assert len({path, compile.cubin(other, "sm_80"), compile.cubin(first, "sm_90a")}) == 3
    assert made == ["pconv_block sm_80", "pconv_block sm_80", "pconv_block sm_90a"]
    assert not list(tmp_path.rglob("*.tmp"))

    monkeypatch.setattr(compile, "nvrtc_version", lambda: "nvrtc 99.10")
    assert compile.cubin(first, "sm_80") != path
    ahead = compile.AHEAD_OF_TIME / compile.file_name(first, "sm_80", "")
    compile.write(ahead, b"built with the package")
    assert compile.cubin(first, "sm_80") == ahead

    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(KernelError, match="set XDG_CACHE_HOME"):
        compile.cubin(other, "sm_80")


def test_failures_have_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := no_nvrtc():
        pytest.skip(reason)
    with pytest.raises(KernelError, match=r"does not know sm_10, only sm_"):
        compile.nvrtc(OTHERS[0], "sm_10")
    with pytest.raises(KernelError, match=r"cannot compile pconv_block.cu for sm_80.*channels of a tile") as e:
        compile.nvrtc(Instance("pconv_block", (("T", "Bf16"), ("C", 40), ("M", 16), ("STAGES", 2))), "sm_80")
    assert isinstance(e.value, FastsrError)
    assert "\n" not in str(e.value)
    assert "channels of a tile" in e.value.log
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    compile.nvrtc_version.cache_clear()
    with pytest.raises(KernelError, match=r"pip install 'fastsr\[gpu\]'"):
        compile.nvrtc_version()
    compile.nvrtc_version.cache_clear()


def test_a_cubin_is_built_ahead_of_time_without_torch_and_numpy(tmp_path: Path) -> None:
    """As CMake does it in an isolated build, here with a compiler that only writes its output."""
    fake = tmp_path / "nvcc"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho cubin > "$2"\n')
    fake.chmod(0o755)
    arguments = ["-m", "kernels.cuda.compile", "--out", str(tmp_path / "out"), "--nvcc", str(fake), "--arch", "sm_80"]
    root = Path(__file__).parents[2]
    hide = "import sys, runpy; sys.modules.update(torch=None, numpy=None, cupy=None); sys.argv = sys.argv[1:]; "
    code = hide + "runpy.run_module('kernels.cuda.compile', run_name='__main__', alter_sys=True)"

    def build() -> Any:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments[1:]], cwd=root, capture_output=True, text=True, check=True
        )

    build()
    names = {compile.file_name(instance, "sm_80", "") for instance in compile.shipped("sm_80")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    (tmp_path / "out" / "cista-sm_80-of-yesterday.cubin").write_text("")
    build()
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
