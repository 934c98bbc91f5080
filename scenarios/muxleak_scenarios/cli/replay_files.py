"""Replay files: where they are written, and that none is ever overwritten by another."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from typing import NoReturn


class _Out(click.Path):
    """A file or folder; with a slash at its end, which `Path` forgets, a folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse a folder that is not there."""
        text, ends = os.fspath(value), ("/", "/.", os.sep, f"{os.sep}.")
        # `Path.is_dir` may raise what `check_out` is there to tell.
        if text.endswith(ends) and not os.path.isdir(text):  # noqa: PTH112
            _refuse_missing(text)
        return super().convert(value, param, ctx)


OUT = _Out(path_type=Path)
"""The type of ``--out``."""


def is_file(word: str) -> bool:
    """Return True if a word is the path of a regular file.

    Not `Path.is_file`: a line of steps may be longer than any path, or hold a NUL, for which some
    Pythons raise an error instead of returning False.
    """
    return os.path.isfile(word)  # noqa: PTH113


def is_folder(word: str) -> bool:
    """Return True if a word is the path of a folder; see `is_file`."""
    return os.path.isdir(word)  # noqa: PTH112


def check_out(out: Path) -> None:
    """Refuse at once what could not be written after a long search.

    Raises:
        click.BadParameter: if it could not.
    """
    mode = 0
    try:
        # Not `out.is_dir()`, which newer Pythons answer where the question is an error.
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = out.stat().st_mode
        folder = out if S_ISDIR(mode) else out.parent
        if not folder.is_dir():
            _refuse_missing(str(folder))
        if mode and not (S_ISDIR(mode) or S_ISREG(mode)):
            _refuse(f"expected a regular file or a folder, got {str(out)!r}, which is neither")
        # Asked for its permissions, a file system that nobody can write to says yes to root.
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        _refuse(
            f"expected a folder that can be written, got {str(out)!r}: {reason}; name another with "
            "--out"
        )


def keep(out: Path, title: str, suffix: str, content: bytes) -> Path | None:
    """Write a file, beside a different one of the same name.

    Args:
        out: the file, or a folder for one that is named after `title`.
        title: of what the file is about.
        suffix: how the file's name ends.
        content: of the file.

    Returns:
        Its path; None, with a note on stderr, if it could not be written: what was found is to be
        shown all the same.
    """
    try:
        if out.is_dir():
            out /= f"muxleak-{title.replace('/', '-').replace(':', '-')}{suffix}"
        return _write(out, suffix, content)
    except OSError as error:
        with suppress(OSError):
            click.echo(f"{out} could not be kept: {error.strerror or error}", err=True)
        return None


def _write(out: Path, suffix: str, content: bytes) -> Path:
    end = suffix if out.name.endswith(suffix) else out.suffix
    path, number = out, 1
    while True:
        try:
            file = path.open("xb")
        except FileExistsError:
            if path.is_file() and path.read_bytes() == content:
                return path
            number += 1
            path = out.with_name(f"{out.name.removesuffix(end)}-{number}{end}")
        else:
            break
    try:
        with file:
            file.write(content)
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    return path


def _refuse_missing(folder: str) -> NoReturn:
    _refuse(f"expected a folder that exists, got {folder!r}; make it first")


def _refuse(text: str) -> NoReturn:
    raise click.BadParameter(text, param_hint="'--out'")
