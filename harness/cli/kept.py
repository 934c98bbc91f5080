"""Replay files: where they are written, and that none is ever overwritten by another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path


def check_out(out: Path) -> None:
    """Refuse at once what could not be written after a long search."""
    folder = out if out.is_dir() else out.parent
    if not folder.is_dir():
        raise click.BadParameter(
            f"expected a folder that exists, got {str(folder)!r}; make it first",
            param_hint="'--out'",
        )
    if not os.access(folder, os.W_OK):
        raise click.BadParameter(f"cannot write to {str(folder)!r}", param_hint="'--out'")


def keep(out: Path, title: str, suffix: str, content: bytes) -> Path:
    """Write a file, beside a different one of the same name, and return its path.

    Args:
        out: the file, or a folder for one that is named after `title`.
        title: of what the file is about.
        suffix: how the file's name ends.
        content: of the file.
    """
    if out.is_dir():
        out /= f"muxleak-{title.replace('/', '-').replace(':', '-')}{suffix}"
    end = suffix if out.name.endswith(suffix) else out.suffix
    path, number = out, 1
    while True:
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            if path.is_file() and path.read_bytes() == content:
                return path
            number += 1
            path = out.with_name(f"{out.name.removesuffix(end)}-{number}{end}")
        else:
            return path
