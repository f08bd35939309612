# SPDX-License-Identifier: Apache-2.0
"""fastsr: the fastest way to run published super-resolution networks.

>>> import fastsr
>>> out = fastsr.load("annet_x3").upscale(img)
"""

from pkgutil import extend_path

# After `pip install .`, Python started in the clone finds this folder before the installed one, which has `_core`.
__path__ = extend_path(__path__, __name__)

from fastsr.catalog import ModelInfo, models
from fastsr.embedding import get_cmake_dir, get_include
from fastsr.errors import DeviceError, FastsrError, InputError, LimitError, ModelError, OutputError
from fastsr.upscaler import Upscaler, load

__version__ = "0.1.0"

__all__ = [
    "DeviceError",
    "FastsrError",
    "InputError",
    "LimitError",
    "ModelError",
    "ModelInfo",
    "OutputError",
    "Upscaler",
    "__version__",
    "get_cmake_dir",
    "get_include",
    "load",
    "models",
]
