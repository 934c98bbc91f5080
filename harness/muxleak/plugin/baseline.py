"""The file of known leaks: by test, then by kind and place, with how many.

Places have no line numbers, so that an edit above a leak does not make it a new one. The file is
TOML, sorted, one leak a line, so that a diff of it reads as what got better or worse.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HEADER = """\
# Leaks that this suite has: by test, then kind and place, with how many.
# A new one fails its test. Remove what is fixed, or write the file again: pytest --leaks-update
"""

Known = dict[str, dict[str, int]]  # blamed test or fixture -> "kind place" -> count


class Gone(NamedTuple):
    """A known leak of which there is less now.

    Attributes:
        blamed: the test or fixture.
        leak: kind and place.
        known: how many the file has.
        found: how many there are.
    """

    blamed: str
    leak: str
    known: int
    found: int


def read(path: Path) -> Known:
    """What the file says.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file; the message says where.
    """
    tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    for blamed, leaks in tables.items():
        if not isinstance(leaks, dict):
            raise ValueError(f"expected a table of leaks for {blamed!r}, got {leaks!r}")  # noqa: TRY004 - one error for a bad file
        for leak, count in leaks.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{blamed}: expected a count above 0 for {leak!r}, got {count!r}")
    return tables


def text(known: Mapping[str, Mapping[str, int]]) -> str:
    """The file that says so."""
    lines = [HEADER]
    for blamed, leaks in sorted(known.items()):
        if leaks:
            lines.append(f"[{_quoted(blamed)}]")
            lines += [f"{_quoted(leak)} = {count}" for leak, count in sorted(leaks.items())]
            lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def write(path: Path, known: Mapping[str, Mapping[str, int]]) -> None:
    """Write the file whole, or leave the old one as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text(known), encoding="utf-8")
    draft.replace(path)


def gone(known: Known, found: Known, done: Iterable[str]) -> list[Gone]:
    """The known leaks that the tests that ran to their end have less of."""
    return [
        Gone(blamed, leak, count, now)
        for blamed in sorted(set(done) & set(known))
        for leak, count in sorted(known[blamed].items())
        if (now := found.get(blamed, {}).get(leak, 0)) < count
    ]


def updated(known: Known, found: Known, done: Iterable[str], vanished: Iterable[str]) -> Known:
    """What the file should say after a run, perhaps of a part of the suite."""
    settled = {*done, *vanished}
    new = {blamed: dict(leaks) for blamed, leaks in known.items() if blamed not in settled}
    for blamed, leaks in found.items():
        counts = new.setdefault(blamed, {})
        for leak, count in leaks.items():
            counts[leak] = max(count, counts.get(leak, 0))
    return new


def _quoted(key: str) -> str:
    # TOML's basic strings are written like JSON's.
    return json.dumps(key, ensure_ascii=False)
