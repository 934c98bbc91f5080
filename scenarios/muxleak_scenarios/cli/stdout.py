"""Standard output that cannot be written: an exit code of its own, and one line on stderr."""

# The exit code of a command is its answer: 1 says that a leak was found. If stdout is full or its
# reader has gone, Python raises an error, and ends with 1 or 120. A script would take that for a
# leak. So a failure to write has exit codes of its own, of sysexits.h and of the shells.
#
# Everything that prints goes through `sys.stdout`: click, rich, and a program under test. Each of
# them may catch OSError: click turns a broken pipe into its own exit with 1, and rich ends the
# process. So `sys.stdout` is replaced for the length of the command by a file that (1) raises
# `OutputError`, which none of them catches, and (2) remembers the error, in case the program under
# test caught even that.
#
# Afterwards the original `sys.stdout` is put back. What is left in its buffer is thrown away, or
# Python would try to write it when it exits, and print a second complaint.
#
# Only a text file is replaced. An object of another kind, such as a StringIO of a test, cannot
# fail.

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
"""Exit code if standard output is full or closed: EX_IOERR of sysexits.h."""
BROKEN_PIPE = 141
"""Exit code if its reader has gone: that of a process ended by SIGPIPE, 128 + 13."""


class OutputError(Exception):
    """Standard output could not be written.

    It is no `OSError`, because click and rich catch those and exit with 1.
    """


class _Watched(TextIOWrapper):
    """Standard output that keeps its first error, even if a program catches it."""

    failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise OutputError from error

    def flush(self) -> None:
        """Write the buffer.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            super().flush()
        except OSError as error:
            self.failure = error
            raise OutputError from error


def guarded(program: Callable[[], int]) -> int:
    """Run a program, and report if its output could not be written.

    Args:
        program: prints to `sys.stdout`, and returns an exit code.

    Returns:
        The exit code of the program, or `CANNOT_WRITE` or `BROKEN_PIPE` if its output did not
        arrive whole.
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
    # The buffer cannot be emptied otherwise: its descriptor is made to lead to /dev/null, where
    # the flush that Python does when it exits succeeds.
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def _cannot_write(reason: str) -> int:
    with suppress(OSError):
        click.echo(f"cannot write to standard output: {reason}", err=True)
    return CANNOT_WRITE
