# SPDX-License-Identifier: Apache-2.0
"""The one exception family. Each message says what was wrong, with which value, and what to do."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` as a terminal may show it: what is no visible character becomes an escape such as \\x1b or \\n.

    Names in messages come out of files, and out of files come control characters. Two times is the same as once.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class FastsrError(Exception):
    """Base of every error fastsr raises on purpose. `exit_code` is what the CLI exits with.

    Its message is one line of visible characters, whatever names it quotes.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


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
