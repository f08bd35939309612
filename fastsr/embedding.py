# SPDX-License-Identifier: Apache-2.0
"""Where the package keeps libfastsr for programs in C and C++ (docs/embedding.md)."""

from __future__ import annotations

import sys
from pathlib import Path

import fastsr
from fastsr.errors import FastsrError

LIBRARY = {"win32": "libfastsr.dll", "darwin": "libfastsr.dylib"}.get(sys.platform, "libfastsr.so")


def _find(name: str) -> Path:
    for root in fastsr.__path__:  # after `pip install -e .` the package has two folders
        if (found := Path(root) / name).exists():
            return found
    raise FastsrError(f"this installation of fastsr has no {name}: it was not built as a wheel (see docs/embedding.md)")


def get_include() -> str:
    """The folder of fastsr/fastsr.h, for a compiler's -I.

    >>> fastsr.get_include()
    """
    return str(_find("include/fastsr/fastsr.h").parents[1])


def get_cmake_dir() -> str:
    """The folder of fastsrConfig.cmake, for -Dfastsr_DIR or CMAKE_PREFIX_PATH; `find_package(fastsr)` then finds it.

    >>> fastsr.get_cmake_dir()
    """
    return str(_find("lib/cmake/fastsr/fastsrConfig.cmake").parent)


def library() -> Path:
    """The shared library itself."""
    return _find(f"{'bin' if sys.platform == 'win32' else 'lib'}/{LIBRARY}")
