"""Standard output that cannot be written: the program must not end as if it had found a leak."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

CANNOT_WRITE = 74
"""The exit code if standard output is full or closed: EX_IOERR of sysexits.h."""
BROKEN_PIPE = 141
"""The exit code if its reader has gone: what shells make of SIGPIPE, 128 + 13."""


class OutputError(Exception):
    """Standard output could not be written.

    No `OSError`: click and rich take a broken pipe for their own affair, and exit with 1.
    """


class _Watched(TextIOWrapper):
    """Standard output that remembers why it could not be written, whoever swallows the error."""

    failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write.

        Raises:
            OutputError: if that fails.
        """
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise OutputError from error

    def flush(self) -> None:
        """Flush.

        Raises:
            OutputError: if that fails.
        """
        try:
            super().flush()
        except OSError as error:
            self.failure = error
            raise OutputError from error


def guarded(program: Callable[[], int]) -> int:
    """Run a program that prints.

    Returns:
        Its exit code, or `CANNOT_WRITE` or `BROKEN_PIPE` if what it printed did not arrive.
    """
    before = sys.stdout
    if before is None:
        return _cannot_write("it is closed")
    if not isinstance(before, TextIOWrapper):
        return program()
    watched = sys.stdout = _Watched(
        before.buffer,
        before.encoding,
        before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    code = 0
    try:
        code = program()
        watched.flush()
    except OutputError:
        pass
    finally:
        sys.stdout = before
        if watched.failure is not None:
            _discard(before)
        watched.detach()
    if watched.failure is None:
        return code
    if isinstance(watched.failure, BrokenPipeError):
        return BROKEN_PIPE
    return _cannot_write(watched.failure.strerror or str(watched.failure))


def _discard(file: TextIOWrapper) -> None:
    # What is still in its buffer would be tried again, and complained of, when Python exits.
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def _cannot_write(reason: str) -> int:
    with suppress(OSError):
        click.echo(f"cannot write to standard output: {reason}", err=True)
    return CANNOT_WRITE
