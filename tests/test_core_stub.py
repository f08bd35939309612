# SPDX-License-Identifier: Apache-2.0
"""fastsr/_core.pyi says what the built module has: the same names, and the same parameters in the same order."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import fastsr
from fastsr import _core

STUB = ast.parse((Path(fastsr.__file__).parent / "_core.pyi").read_text())
Signature = list[tuple[str, bool]]
"""of each parameter: its name, and whether it has a default"""


def stubbed(function: ast.FunctionDef) -> Signature:
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    needed = len(positional) - len(a.defaults)
    found = [(p.arg, i >= needed) for i, p in enumerate(positional)]
    return found + [(p.arg, d is not None) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]


def built(doc: str) -> Signature:
    """Of the first line of pybind11's docstring: `f(x: int, y: int = 0) -> int`; brackets hide commas of types."""
    inside = doc.splitlines()[0].partition("(")[2].rpartition(") -> ")[0]
    while (flat := re.sub(r"\([^()]*\)|\[[^][]*\]|'[^']*'|\"[^\"]*\"", "_", inside)) != inside:
        inside = flat
    parts = [part for part in inside.split(", ") if part not in ("", "*", "/")]
    return [(part.split(":")[0].split("=")[0].strip(), "=" in part) for part in parts]


def members(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for item in body:
        if isinstance(item, ast.FunctionDef | ast.ClassDef):
            found[item.name] = item
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found[item.target.id] = item
    return found


def compare(stub: dict[str, ast.stmt], module: object, where: str) -> None:
    real = {name for name in vars(module) if not name.startswith("_") or name == "__init__"}
    assert set(stub) == real, where
    for name, item in stub.items():
        value = vars(module)[name]
        if isinstance(item, ast.ClassDef):
            compare(members(item.body), value, name)
        elif isinstance(item, ast.FunctionDef) and not isinstance(value, property):
            function = value.__func__ if isinstance(value, staticmethod) else value
            assert stubbed(item) == built(function.__doc__), f"{where}.{name}"
        elif isinstance(item, ast.FunctionDef):
            assert [d.id for d in item.decorator_list if isinstance(d, ast.Name)] == ["property"], f"{where}.{name}"


def test_the_stub_is_the_module() -> None:
    compare(members(STUB.body), _core, "_core")


def test_a_difference_would_be_found() -> None:
    assert built("f(x: tuple[int, str] = (1, 'a, b'), *, y: dict[str, list[int]]) -> int") == [
        ("x", True),
        ("y", False),
    ]
    assert built("f(self: _core.Session, a: numpy.ndarray[float, flags=3], b: str = '') -> None") == [
        ("self", False), ("a", False), ("b", True),
    ]  # fmt: skip
