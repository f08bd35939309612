# SPDX-License-Identifier: Apache-2.0
"""The one exception family. Each message says what was wrong, with which value, and what to do."""

from __future__ import annotations


class FastsrError(Exception):
    """Base of every error fastsr raises on purpose. `exit_code` is what the CLI exits with."""

    exit_code = 1


class InputError(FastsrError):
    """The image, array or argument given cannot be used."""

    exit_code = 2


class ModelError(FastsrError):
    """The model name, model file or checkpoint cannot be used."""

    exit_code = 3


class LimitError(FastsrError):
    """The work would exceed a limit (pixels, memory) that the caller may raise."""

    exit_code = 4


class OutputError(FastsrError):
    """The result cannot be written where it was asked for."""

    exit_code = 5


class DeviceError(FastsrError):
    """The device, executor, ISA or precision asked for is not available here."""

    exit_code = 6
