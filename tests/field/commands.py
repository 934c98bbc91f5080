"""The command line that the commands of this folder have in common."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments import Environment, default_cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def parser(description: str | None, one: str) -> argparse.ArgumentParser:
    """Return a parser with the options that each command has.

    Args:
        description: of the command.
        one: the thing that `--only` names, in two words.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--only", action="append", default=[], metavar="NAME", help=one)
    made.add_argument(
        "--cache", type=Path, default=default_cache(), metavar="FOLDER", help="of environments"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="results in full")
    return made


def are_known(only: Iterable[str], names: Sequence[str]) -> bool:
    """Return True if all names are known; else say on standard error which is not."""
    unknown = sorted(set(only) - set(names))
    if unknown:
        print(
            f"expected --only to name one of {', '.join(names)}, got {unknown[0]}", file=sys.stderr
        )
    return not unknown


def write_json(path: Path | None, rows: object) -> None:
    """Write the results, if a file was given."""
    if path is not None:
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def start(
    place: Environment,
    words: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    patience: float,
) -> subprocess.CompletedProcess[str]:
    """Run an environment's Python to its end.

    Args:
        place: the environment.
        words: the arguments of its Python.
        folder: the working folder.
        variables: the environment variables.
        patience: seconds that it may take.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    return subprocess.run(  # noqa: S603 - our own words
        [str(place.python), *words],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience,
    )


def answer_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any] | None:
    """Return the JSON in the last line that a probe has printed; None if there is none."""
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def last_line(text: str) -> str:
    """Return the last line of some output."""
    return (text.strip().splitlines() or ["no output"])[-1]
