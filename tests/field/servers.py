"""Runs `check_server` on servers that users would write with the libraries of other projects.

The planted leak of each must be found and its line named; the clean variant must pass; a true leak
of a library must be found at the place that docs/field.md names, and its replay must find it again.

Installs pinned releases into environments of their own, which stay in a cache folder. Prints one
row per project; progress goes to standard error. Exit code: 0 as documented, 1 if a planted leak is
missed or a clean variant is accused, 2 if a release could not be installed or an argument is wrong.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from commands import answer_of, are_known, last_line, parser, start, write_json
from environments import TOOLS, Environment, InstallError, environ, environment, wheel
from served import SERVERS, UserServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HERE = Path(__file__).parent
PROGRAMS = HERE / "servers"
SEQUENCES = 2_000
PATIENCE = 1800.0  # seconds for one check; on a real loop, time is real
_MARK = "# planted"


@dataclass(frozen=True)
class Checked:
    """The outcome of one check.

    Attributes:
        found: it reported a leak.
        error: another exception, or the reason why it could not be run.
        text: the report.
        seconds: its duration, without the start of the process.
    """

    found: bool
    error: str | None = None
    text: str = ""
    seconds: float = 0.0

    @property
    def sequence(self) -> str:
        """The number of the sequence in which it was found; "" if it was not."""
        return _group(r"found in sequence ([\d,]+)", self.text)

    @property
    def replay(self) -> str:
        """The line that repeats the sequence; "" if there is none."""
        return _group(r'replay="([^"]+)"', self.text)

    @property
    def passed(self) -> bool:
        """True if nothing was reported."""
        return not self.found and self.error is None


@dataclass
class Row:
    """The results of one server.

    Attributes:
        project: the library and its release.
        target: of the checks.
        line: "file.py:12", the line that makes the planted leak.
        sequences: number of sequences of the clean variant.
        planted: the outcome of the variant with the planted leak.
        clean: that of the clean variant, without the true leaks.
        leaks: the outcomes of the true leaks, by their places.
        again: the outcomes of their replays, by the same.
    """

    project: str
    target: str
    line: str
    sequences: int
    planted: Checked
    clean: Checked
    leaks: dict[str, Checked] = field(default_factory=dict)
    again: dict[str, Checked] = field(default_factory=dict)

    @property
    def is_named(self) -> bool:
        """True if the report of the planted leak has its line."""
        return (
            self.planted.found
            and re.search(rf"\b{re.escape(self.line)}\b", self.planted.text) is not None
        )

    @property
    def faults(self) -> list[str]:
        """Everything that differs from the page, in words."""
        found = []
        if not self.is_named:
            found.append(f"the planted leak at {self.line}: {_words(self.planted)}")
        if not self.clean.passed:
            found.append(f"the clean variant: {_words(self.clean)}")
        for outcomes, name in ((self.leaks, "the leak"), (self.again, "the replay of the leak")):
            found += [
                f"{name} at {place}: {_words(each)}"
                for place, each in outcomes.items()
                if not each.found or place not in each.text
            ]
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    commands = parser(__doc__, "one server")
    commands.add_argument(
        "--sequences", type=int, default=SEQUENCES, metavar="N", help="of each check"
    )
    options = commands.parse_args(arguments)
    if options.sequences < 1:
        print(f"expected --sequences of 1 or more, got {options.sequences}", file=sys.stderr)
        return 2
    if not are_known(options.only, [each.program for each in SERVERS]):
        return 2
    rows = []
    try:
        with wheel() as path:
            for server in SERVERS:
                if not options.only or server.program in options.only:
                    rows.append(measure(server, options.cache, path, options.sequences))
                    print(line(rows[-1], server), flush=True)
                    write_json(options.json, [asdict(row) for row in rows])
    except InstallError as error:
        print(f"a release could not be installed: {error}", file=sys.stderr)
        return 2
    print(summary(rows))
    return int(any(row.faults for row in rows))


def line(row: Row, server: UserServer) -> str:
    """Return a row of the table, as in docs/field.md; replays and faults are listed below it."""
    rate = row.sequences / row.clean.seconds if row.clean.seconds else 0.0
    cells = [
        row.project,
        row.target,
        f"{rate:,.0f}",
        server.kind,
        row.planted.sequence or "missed",
        "yes" if row.is_named else "no",
        str(int(not row.clean.passed)),
        ", ".join(f"`{each}`" for each in row.leaks) or "none",
    ]
    text = f"| {' | '.join(cells)} |"
    for place, each in row.leaks.items():
        text += f"\n    {place}, in sequence {each.sequence}, again: replay={each.replay!r}"
    return text + "".join(f"\n    not as documented: {each}" for each in row.faults)


def summary(rows: Iterable[Row]) -> str:
    """Return the sums over all rows."""
    rows = list(rows)
    found = sum(row.is_named for row in rows)
    accused = sum(not row.clean.passed for row in rows)
    true = sum(each.found for row in rows for each in row.leaks.values())
    return (
        f"{len(rows)} servers: {found} planted leaks found with their lines, {accused} clean "
        f"variants accused, {true} true leaks of libraries"
    )


def measure(server: UserServer, cache: Path, path: str, sequences: int) -> Row:
    """Check all variants of a server."""
    place = environment(cache, server.program, [*TOOLS, *server.requirements, server.release])
    sequences = min(sequences, server.most)

    def checked(variant: str, sought: str = "", replay: str = "") -> Checked:
        print(f"{server.program}: {variant}", file=sys.stderr, flush=True)
        words = [variant, f"--sequences={sequences}", f"--target={server.target}"]
        words += [f"--ignore={each}" for each in server.ignored(variant, sought)]
        return check(place, server.program, [*words, f"--replay={replay}"], path)

    row = Row(
        server.release.replace("==", " "),
        server.target,
        planted_line(PROGRAMS / f"{server.program}.py"),
        sequences,
        checked("planted"),
        checked("clean"),
    )
    for leak in server.leaks:
        row.leaks[leak.place] = first = checked(leak.variant, leak.place)
        row.again[leak.place] = checked(leak.variant, leak.place, first.replay)
    return row


def check(place: Environment, program: str, words: Sequence[str], path: str) -> Checked:
    """Run one check in an environment."""
    probe = str(HERE / "server_probe.py")
    try:
        done = start(place, [probe, program, *words], PROGRAMS, environ(path), PATIENCE)
    except subprocess.TimeoutExpired:
        return Checked(found=False, error=f"no end within {PATIENCE:.0f} s")
    answer = answer_of(done)
    if answer is None:
        return Checked(found=False, error=last_line(done.stderr))
    return Checked(**answer)


def planted_line(program: Path) -> str:
    """Return the line of a program that makes the planted leak, as reports name it."""
    lines = program.read_text("utf-8").splitlines()
    (number,) = (number for number, each in enumerate(lines, 1) if each.endswith(_MARK))
    return f"{program.name}:{number}"


def _words(outcome: Checked) -> str:
    if outcome.error is not None:
        return f"{outcome.error}: {outcome.text}"
    return outcome.text or "nothing was reported"


def _group(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else ""


if __name__ == "__main__":
    sys.exit(main())
