"""Reads, compares and writes the baseline: the leaks that a suite already has."""

# The baseline lets a suite that leaks already adopt `--leaks=strict`: its present leaks pass, a new
# leak fails its test, and an entry whose leak no longer occurs fails the run, so that the file can
# only shrink. The rules:
#
# - The file maps the id of a test, or the name of a fixture, to its leaks. A leak is a kind and a
#   place, with the number of objects: `"task app.py in connect" = 2`. More objects of the same
#   kind and place than the entry allows are a new leak.
# - A place is a file and a function, without a line number, so that an edit above a leak does not
#   make it new. The price: two leaks of one kind in one function differ from one leak by the
#   number only.
# - The file is sorted TOML with one leak on each line, so that a diff shows which leaks were added
#   and which were removed.
# - An entry counts as no longer occurring only if its test passed, or its fixture was torn down. A
#   test that failed may have stopped before its leak. So an update replaces the entries of passed
#   tests, adds to those of failed tests, and keeps those of tests that did not run. Therefore a run
#   of a part of the suite (`-k`, `file.py::test`, `--lf`) is safe.
# - Several runs may end at the same time: those of tox, or of a build with several jobs. So an
#   update merges into the file as it is then, under a lock, and not as it was when the run began.
#   With pytest-xdist the controller alone writes.
# - A leak that fails its test by an explicit `no_leaks` inside the test, or by `repeat` of the
#   marker, is neither compared nor written: it fails the test whatever the baseline lists.

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from muxleak import files

HEADER = """\
# Baseline: the leaks that this suite already has, by test, then kind and place, with their number.
# A new leak fails its test. Remove entries that are fixed, or write the file: pytest --leaks-update
"""

MAX_BYTES = 1 << 24
"""Size of a file, at most."""
MAX_COUNT = 10**12
"""Objects of one kind and place, at most."""
Baseline = dict[str, dict[str, int]]  # test or fixture -> "kind place" -> number of objects


class Excess(NamedTuple):
    """An entry of the baseline that allows more objects than a run found.

    Attributes:
        owner: the test or fixture.
        leak: kind and place.
        expected: the number in the baseline.
        found: the number in this run.
    """

    owner: str
    leak: str
    expected: int
    found: int


def read(path: Path) -> Baseline:
    """Return the contents of a baseline.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a baseline; the message names the line or entry.
    """
    return parse(files.read_text(path, MAX_BYTES))


def parse(content: str) -> Baseline:
    """Return the baseline that a text of TOML holds.

    Raises:
        ValueError: as `read`.
    """
    tables: dict[str, Any] = files.from_toml(content)
    for owner, leaks in tables.items():
        if not isinstance(leaks, dict):
            raise ValueError(  # noqa: TRY004 - one error for a bad file
                f"expected a table of leaks for {files.shown(owner)}, got {files.shown(leaks)}"
            )
        for leak, count in leaks.items():
            if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= MAX_COUNT:
                raise ValueError(
                    f"{files.shown(owner)}: expected a count of 1 to {MAX_COUNT:,} for "
                    f"{files.shown(leak)}, got {files.shown(count)}"
                )
    return tables


def text(baseline: Mapping[str, Mapping[str, int]]) -> str:
    """Return a baseline as TOML, sorted, with a header that explains it."""
    lines = [HEADER]
    for owner, leaks in sorted(baseline.items()):
        if leaks:
            lines.append(f"[{_quoted(owner)}]")
            lines += [f"{_quoted(leak)} = {count}" for leak, count in sorted(leaks.items())]
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def write(path: Path, baseline: Mapping[str, Mapping[str, int]]) -> None:
    """Replace the file as a whole. If that fails, the old file stays as it is.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace_text(path, text(baseline))


def update(
    path: Path, found: Baseline, passed: Iterable[str], removed: Iterable[str] = ()
) -> Baseline:
    """Merge the leaks of a run into the file, without losing those that another run writes.

    Args:
        path: of the file, which need not exist.
        found: as for `updated`.
        passed: the same.
        removed: the same.

    Returns:
        The new contents.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: the file is no longer a baseline; it stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path):
        try:
            baseline = read(path)
        except FileNotFoundError:
            baseline = {}
        new = updated(baseline, found, passed, removed)
        files.replace_text(path, text(new))
    return new


def excess(baseline: Baseline, found: Baseline, passed: Iterable[str]) -> list[Excess]:
    """Return the entries that allow more than was found.

    Args:
        baseline: the file's contents.
        found: the leaks of this run.
        passed: the tests and fixtures that ran to their end.
    """
    return [
        Excess(owner, leak, count, now)
        for owner in sorted(set(passed) & set(baseline))
        for leak, count in sorted(baseline[owner].items())
        if (now := found.get(owner, {}).get(leak, 0)) < count
    ]


def updated(
    baseline: Baseline, found: Baseline, passed: Iterable[str], removed: Iterable[str]
) -> Baseline:
    """Return the new contents after a run of the suite, or of a part of it.

    Args:
        baseline: the file's contents.
        found: the leaks of this run.
        passed: the tests and fixtures that ran to their end; their entries are replaced.
        removed: tests that no longer exist; their entries are dropped.
    """
    replaced = {*passed, *removed}
    new = {owner: dict(leaks) for owner, leaks in baseline.items() if owner not in replaced}
    for owner, leaks in found.items():
        counts = new.setdefault(owner, {})
        for leak, count in leaks.items():
            counts[leak] = max(count, counts.get(leak, 0))
    return new


def _quoted(key: str) -> str:
    # A basic string of TOML is written like a string of JSON, but for DEL. A path that is not UTF-8
    # has surrogates, which no file can hold.
    key = key.encode("utf-8", "backslashreplace").decode()
    return json.dumps(key, ensure_ascii=False).replace("\x7f", "\\u007f")
