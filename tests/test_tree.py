# SPDX-License-Identifier: Apache-2.0
"""The tree keeps its promises: the grid of ops is complete, imports go one way, kernel files export one symbol."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastsr
from fastsr import _core
from fastsr.ops import OPS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fastsr"

# module -> the modules of ours it may import. A package stands for what is in it.
ALLOWED = {
    "errors": set(),
    "plan": {"_core"},
    "ops": {"ops"},
    "families": {"plan", "ops", "errors"},
    "modelfile": {"plan", "errors", "executors", "_core"},
    "catalog": {"modelfile", "errors"},
    "executors": {"plan", "ops", "errors", "_core", "executors", "engine", "host"},
    "gpu": {"plan", "ops", "errors", "_core", "kernels", "executors", "engine", "image", "tolerance"},
    "tolerance": set(),
    "metrics": {"errors"},
    "image": {"errors", "_core"},
    "files": {"errors", "image", "files", "strips", "_core"},
    "strips": {"_core"},
    "engine": {"errors"},
    "host": {"engine", "image", "errors", "_core"},
    "torch_ops": {"executors", "gpu", "ops", "plan", "errors", "_core"},
    "upscaler": {
        "catalog",
        "image",
        "engine",
        "executors",
        "modelfile",
        "plan",
        "errors",
        "_core",
        "convert",
    },
    "convert": {"families", "modelfile", "plan", "errors", "ops", "train", "_core"},
    "train": {"families", "modelfile", "metrics", "ops", "upscaler", "evaluate", "errors", "_core", "train"},
}


def imported(path: Path) -> set[str]:
    """The first-level fastsr modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fastsr":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fastsr.")}
    return found


def test_the_grid_is_complete() -> None:
    assert tuple(_core.ops()) == OPS
    composed = re.findall(r"fastsr_add_op\((\w+) COMPOSED\)", (ROOT / "csrc/CMakeLists.txt").read_text())
    for op in OPS:
        for cell in (
            f"fastsr/ops/{op}.py",
            f"csrc/ops/{op}.cpp",
            f"csrc/ops/{op}.cpp" if op in composed else f"csrc/cpu/{op}.cpp",
            f"tests/ops/test_{op}.py",
            f"bench/bench_{op}.py",
        ):
            assert (ROOT / cell).exists(), f"{op} has no {cell}"


def test_a_cuda_kernel_has_its_launcher_and_its_test() -> None:
    files = {path.stem for path in (ROOT / "kernels/cuda").glob("*.cu")}
    ops = {"anchored_regression", "cista", "pconv_block"}
    assert files == ops | {"cista_wgmma"}  # a candidate of cista's launcher
    for op in ops:
        launcher = (ROOT / f"kernels/cuda/{op}.py").read_text()
        assert re.findall(r"^def (supports|pack|launch)\(", launcher, re.M) == ["supports", "pack", "launch"]
        test = (ROOT / f"tests/cuda/test_{op}.py").read_text()
        assert "def test_emulated" in test
        assert "def test_on_the_gpu" in test


def test_device_code_includes_no_toolkit() -> None:
    for path in [*ROOT.glob("kernels/cuda/*.cu"), *ROOT.glob("kernels/cuda/*.cuh")]:
        text = path.read_text()
        ours = {'"cista.cuh"', '"common.cuh"', '"conv_tile.cuh"', '"hopper.cuh"'}
        assert set(re.findall(r"#include (.+)", text)) <= ours, path
        # Each instruction is a function of common.cuh or hopper.cuh, which the emulation models.
        assert path.name in ("common.cuh", "hopper.cuh") or "asm" not in text, path


def test_the_triton_column_is_complete() -> None:
    """A GPU executor runs any op by torch, but every op has a kernel; the others are what ops share, and colour."""
    files = {path.stem for path in (ROOT / "kernels/triton").glob("*.py")}
    shared = {"__init__", "common", "conv_gemm", "conv_image", "conv_few", "shallow", "color"}
    assert files - shared == set(OPS)
    for op in OPS:
        text = (ROOT / f"kernels/triton/{op}.py").read_text()
        for entry in ("supports", "pack", "launch"):
            assert f"\ndef {entry}(" in text, f"kernels/triton/{op}.py has no {entry}"


def test_kernels_import_nothing_of_ours_but_themselves_and_the_errors() -> None:
    for path in ROOT.glob("kernels/**/*.py"):
        assert imported(path) <= {"kernels", "errors"}, path


@pytest.mark.parametrize("module", sorted(ALLOWED))
def test_imports_go_one_way(module: str) -> None:
    target = PACKAGE / module
    files = list(target.rglob("*.py")) if target.is_dir() else [PACKAGE / f"{module}.py"]
    for path in files:
        extra = imported(path) - ALLOWED[module] - {module}
        assert not extra, f"{path.relative_to(ROOT)} imports fastsr.{', fastsr.'.join(sorted(extra))}"


def test_the_core_includes_neither_python_nor_torch() -> None:
    for path in [*ROOT.glob("csrc/core/*"), *ROOT.glob("csrc/cpu/*"), *ROOT.glob("csrc/ops/*")]:
        text = path.read_text()
        assert not re.search(r"#include\s*[<\"](Python|pybind11|torch)", text), path
    for path in ROOT.glob("csrc/cpu/*"):
        for header in re.findall(r'#include "([^"]+)"', path.read_text()):
            plain = ("core/kernel.h", "core/tensor.h", "core/pixel_rows.h")
            assert header in plain or header.startswith(("cpu/", "ops/")), f"{path}: {header}"
    for path in ROOT.glob("csrc/ops/*.h"):  # an op's numbers: kernels include them
        assert re.findall(r"#include (\S+)", path.read_text()) == ['"core/kernel.h"'], path
        assert not re.search(r"#include <(?!cstddef|cstdint|immintrin\.h|arm_neon\.h)", path.read_text()), path


def test_kernel_objects_export_one_symbol() -> None:
    objects = sorted((ROOT / "build").rglob("fastsr_cpu_*/**/*.o")) or sorted((ROOT / "build").rglob("cpu/*.o"))
    added = re.compile("fuzz|sanitize")  # these builds add symbols
    objects = [path for path in objects if not added.search(str(path.relative_to(ROOT)))]
    if not objects:
        pytest.skip("no build tree: installed from a wheel")
    for path in objects:
        lines = subprocess.run(
            ["nm", "--defined-only", "--extern-only", str(path)], capture_output=True, text=True, check=True
        )
        symbols = [line.split()[-1] for line in lines.stdout.splitlines()]
        assert len(symbols) == 1, f"{path.name} of {path.parent} exports {symbols}"
        assert symbols[0].startswith("fastsr_kernel_"), symbols


def at_import(path: Path) -> set[str]:
    """The modules that a file imports when it is imported itself: not within functions, not for types."""
    found: set[str] = set()

    def look(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.update({f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)})
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                look(node.orelse)
            elif not isinstance(node, ast.FunctionDef):
                for part in ("body", "orelse", "finalbody"):
                    look(getattr(node, part, []))

    look(ast.parse(path.read_text()).body)
    return found


def test_only_the_gpus_part_imports_torch_at_import() -> None:
    """And networks as modules, training, torch's operators and the benchmark's torch engines, which are nothing without it."""
    torch = (
        "gpu/",
        "families/",
        "train/",
        "torch_ops.py",
        "benchmark/best.py",
        "benchmark/gpu.py",
        "benchmark/natural.py",
    )
    for path in PACKAGE.rglob("*.py"):
        name = str(path.relative_to(PACKAGE))
        if not name.startswith((*torch, "kernels/")):
            heavy = {m for m in at_import(path) if re.match(r"(torch|triton|fastsr\.(gpu|torch_ops))(\.|$)", m)}
            assert not heavy, f"{name} imports {heavy}"
    for path in (PACKAGE / "gpu").glob("*.py"):
        assert path.read_text().count("import torch\n") <= 1, f"{path.name} imports torch in a function"


def test_importing_fastsr_imports_no_torch() -> None:
    code = (
        "import sys, fastsr; print(sorted({'torch', 'scipy', 'sklearn', 'PIL', 'triton', 'cupy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert result.stdout.strip() == "[]"


def test_files_can_be_read_at_one_sitting() -> None:
    kernels = ("kernels/**/*.py", "kernels/**/*.cu", "kernels/**/*.cuh", "tests/cuda/*.h")
    for pattern in ("fastsr/**/*.py", "csrc/**/*.cpp", "csrc/**/*.h", "tests/**/*.py", "bench/**/*.py", *kernels):
        for path in ROOT.glob(pattern):
            lines = len(path.read_text().splitlines())
            assert lines <= 500, f"{path.relative_to(ROOT)} has {lines} lines"


def test_no_todo_without_an_issue() -> None:
    for pattern in ("fastsr/**/*.py", "csrc/**/*.cpp", "csrc/**/*.h", "kernels/**/*.py", "kernels/**/*.cu*"):
        for path in ROOT.glob(pattern):
            for line in path.read_text().splitlines():
                assert "TODO" not in line or re.search(r"TODO\(#\d+\)", line), f"{path}: {line.strip()}"


def test_public_surface() -> None:
    assert set(fastsr.__all__) >= {"load", "models", "Upscaler", "FastsrError", "__version__"}
