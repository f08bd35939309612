# SPDX-License-Identifier: Apache-2.0
"""How the shell ends: an error is one line and an exit code, a signal unwinds."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path

import click

from fastsr.errors import FastsrError, LimitError, OutputError, printable


def terminated(number: int, frame: object) -> None:
    """SIGTERM and SIGHUP unwind as an error does, so that no temporary file stays; the second ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)


def catch_signals() -> None:
    """For a program of our own. A process under nohup stays deaf to SIGHUP."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, terminated)


def _explain(e: BaseException) -> tuple[str, int]:
    """One line and the exit code for an error."""
    if isinstance(e, click.ClickException):
        return e.format_message(), e.exit_code
    if isinstance(e, FastsrError):
        return str(e), e.exit_code
    if isinstance(e, KeyboardInterrupt | click.exceptions.Abort):
        return "interrupted", 130
    if isinstance(e, MemoryError):
        return "out of memory: set --memory-limit, or cut the image", LimitError.exit_code
    if isinstance(e, OSError):
        return f"{e.filename or 'system'}: {e.strerror or e}", 1
    return f"internal error, please report it with what -v shows: {type(e).__name__}: {e}", 70


def note(source: str, line: str) -> None:
    """One line on stderr that is no error."""
    click.echo(f"fastsr: note: {printable(f'{source}: {line}')}", err=True)


def report(e: BaseException, source: Path | str | None = None) -> int:
    """Say what went wrong in one line, with its trace if -v was given; returns the exit code."""
    if {"-v", "--verbose"} & set(sys.argv[1:]):
        traceback.print_exception(e)
    line, code = _explain(e)
    if source is not None and str(source) not in line and not isinstance(e, OutputError):
        line = f"{source}: {line}"
    click.echo(f"fastsr: error: {printable(' '.join(line.split()))}", err=True)
    return code
