"""Files that a search writes: checked before it begins, and never written over another."""

# A search may take an hour, and its finding is worth more than its file. So --out is checked before
# the search begins, by writing a temporary file where the finding will go: permissions alone do not
# tell, since root has all of them, also on a file system that is read-only. And a file that cannot
# be written in the end (the folder has gone, the disk is full) is a note on stderr. The finding is
# shown all the same, and the exit code says that there is one.
#
# No file is ever written over: a file of the same name and content is kept as it is, so that a
# search that is repeated makes no second one; a file of other content gets a neighbour with a
# number. Two searches in one folder cannot take the same name.
#
# Half a file would be taken for a finding that cannot be read. So the content is written to a
# draft, which then gets the name in one step. A search may be killed at any time: one that goes on
# after a finding writes it at once (`Growing`).

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click

from muxleak import files
from muxleak.sim.replay import SUFFIX, ReplayError

if TYPE_CHECKING:
    from typing import NoReturn

    from muxleak.sim import Replay


class _Out(click.Path):
    """The path of a file or folder; a path that ends in a slash is that of a folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or refuse a folder that does not exist."""
        text, ends = os.fspath(value), ("/", "/.", os.sep, f"{os.sep}.")
        # `Path` drops the slash. And `Path.is_dir` raises errors that `check_out` reports later.
        if text.endswith(ends) and not os.path.isdir(text):  # noqa: PTH112
            _refuse_missing(text)
        return super().convert(value, param, ctx)


OUT = _Out(path_type=Path)
"""The type of the option ``--out``."""


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
    """Check before a search that its file can be written after it.

    Args:
        out: the file, or the folder for it.

    Raises:
        click.BadParameter: it cannot; the message says why.
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
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        _refuse(
            f"expected a folder that can be written, got {str(out)!r}: {reason}; name another with "
            "--out"
        )


def keep(out: Path, title: str, suffix: str, content: bytes) -> Path | None:
    """Write a file, beside any other of the same name.

    Args:
        out: the file, or a folder for a file that is named after `title`.
        title: the subject of the file, such as "live_id_reused/buggy".
        suffix: the end of the file's name.
        content: the content of the file.

    Returns:
        The path of the file; None, with a note on stderr, if it could not be written.
    """
    try:
        if out.is_dir():
            out /= f"muxleak-{title.replace('/', '-').replace(':', '-')}{suffix}"
        return _write(out, suffix, content)
    except OSError as error:
        _complain(out, error)
        return None


def keep_replay(out: Path, replay: Replay) -> tuple[Path | None, str]:
    """Write the file of a replay, beside any other of the same name.

    Returns:
        The path of the file; None if it could not be written, or is too long. Then the place of the
        run in words, to follow "again".
    """
    try:
        content = replay.to_bytes()
    # A line may hold more choices than a file may have; the line is printed in any case.
    except ReplayError:
        return None, "; it is too long for a file"
    path = keep(out, replay.name, SUFFIX, content)
    return path, f", also from {path}" if path else ""


class Growing:
    """A file that a search writes again with each finding, so that its end loses none.

    Args:
        out: the file, or the folder for a file that is named after `title`.
        title: the subject of the file, such as "hunt-127.0.0.1:8443".
        suffix: the end of the file's name.

    Attributes:
        path: of the file; None before it is first written, and while it cannot be.
    """

    def __init__(self, out: Path, title: str, suffix: str) -> None:
        self.path: Path | None = None
        self._place = out, title, suffix
        self._content = b""

    def write(self, content: bytes) -> None:
        """Write the file beside any other of the same name, or replace its content."""
        if self.path is None:
            self.path = keep(*self._place, content)
        elif content != self._content:
            try:
                _draft(self.path, content).replace(self.path)
            except OSError as error:
                _complain(self.path, error)
                return
        self._content = content


def _complain(out: Path, error: OSError) -> None:
    with suppress(OSError):
        click.echo(f"{out} could not be kept: {error.strerror or error}", err=True)


def _write(out: Path, suffix: str, content: bytes) -> Path:
    end = suffix if out.name.endswith(suffix) else out.suffix
    path, number = out, 1
    draft = _draft(out, content)
    try:
        while True:
            try:
                _claim(draft, path)
            except FileExistsError:
                if path.is_file() and files.first_bytes(path, len(content) + 1) == content:
                    return path
                number += 1
                path = out.with_name(f"{out.name.removesuffix(end)}-{number}{end}")
            else:
                return path
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path, content: bytes) -> Path:
    """Return a file with the content, beside a path."""
    draft = path.with_name(f".muxleak-{os.getpid()}-{path.name[-80:]}")
    try:
        draft.write_bytes(content)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
    return draft


def _claim(draft: Path, path: Path) -> None:
    """Give a file a name that no other file has, in one step.

    Raises:
        FileExistsError: another file has the name.
    """
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links: two steps, of which the first takes the name.
        path.open("xb").close()
        draft.replace(path)


def _refuse_missing(folder: str) -> NoReturn:
    _refuse(f"expected a folder that exists, got {folder!r}; make it first")


def _refuse(text: str) -> NoReturn:
    raise click.BadParameter(text, param_hint="'--out'")
