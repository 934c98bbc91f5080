"""Runs cases at a real proxy and at both variants of their twins, and counts all of them alike."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from fractions import Fraction
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from muxleak_scenarios import child_process
from muxleak_scenarios.hunt.batch import Driver, Spending, UnreachableError
from muxleak_scenarios.hunt.counters import DESCRIPTORS, CounterError, tasks
from muxleak_scenarios.hunt.destinations import Destinations
from muxleak_scenarios.hunt.measure import Meter
from muxleak_scenarios.hunt.remote_server import RemoteServer, StartError
from muxleak_scenarios.real.cases import Left
from muxleak_scenarios.real.programs import ATTEMPTS, LOOPBACK, free_port, sing_box_server
from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.target import USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from muxleak_scenarios.hunt.stacks import Stack
    from muxleak_scenarios.real.cases import Case
    from muxleak_scenarios.real.programs import Config, Program

    Make = Callable[[str, str], RemoteServer]

COPIES = 20
PATIENCE = 2.0
"""Seconds for which the counts must stand still: longer than a server takes to close."""
BANDWIDTH = 100e6
SUBJECTS = ("real", "buggy", "fixed")
_WARMING = Sequence.parse("a:open a:new:1:@echo+5 a:end:1 a:close")
"""What a server makes once, for its first connection, is made before anything is counted."""

SERVERS: dict[str, Callable[[int, int], Config]] = {
    "sing-box": lambda port, debug: sing_box_server(port, USER, debug)
}
"""The configurations of those that can be counted: where they listen, and where their pprof is."""


class DiedError(Exception):
    """A server has died, or cannot be counted any more; says of what, with its last words."""


class Measured(NamedTuple):
    """What so many copies of a sequence changed, by stack; destinations alive, and gone."""

    held: Counter[Stack]
    kept: Counter[Stack]
    copies: int

    @property
    def left(self) -> Left:
        """What one repetition leaves."""
        totals = (
            count for each in (self.held, self.kept) for count in (tasks(each), each[DESCRIPTORS])
        )
        return Left(*(Fraction(total, self.copies) for total in totals))

    def each(self, stack: Stack) -> tuple[Fraction, Fraction]:
        """What one repetition leaves of a stack."""
        return Fraction(self.held[stack], self.copies), Fraction(self.kept[stack], self.copies)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Where goroutines or tasks are left, or have become fewer."""
        found = {
            stack
            for each in (self.held, self.kept)
            for stack, count in each.items()
            if count and tasks(Counter({stack: count}))
        }
        return tuple(sorted(found))


class CaseRow(NamedTuple):
    """A case with its measurements: the real program, its twin, and the twin's fixed variant."""

    case: Case
    real: Measured
    buggy: Measured
    fixed: Measured

    def claim(self, subject: str) -> Left:
        """Return what one of `SUBJECTS` is claimed to leave."""
        return {"real": self.case.real, "buggy": self.case.twin, "fixed": Left()}[subject]

    def measured(self, subject: str) -> Measured:
        """Return what one of `SUBJECTS` left."""
        return {"real": self.real, "buggy": self.buggy, "fixed": self.fixed}[subject]

    def holds(self, subject: str) -> bool:
        """Whether it left as much as is claimed."""
        return self.measured(subject).left == self.claim(subject)

    @property
    def agrees(self) -> bool:
        """Whether all three did."""
        return all(map(self.holds, SUBJECTS))


async def compare(
    cases: Iterable[Case],
    make: Make,
    *,
    copies: int = COPIES,
    patience: float = PATIENCE,
    tell: Callable[[str, Case], None] = lambda _who, _case: None,
) -> list[CaseRow]:
    """Measure every case at every subject; ``tell`` is called before each.

    ``make`` makes the server of one of `SUBJECTS`, for a pair. Cases of one pair that stand
    together share their servers.

    Raises:
        StartError: if a server cannot be started.
        CounterError: if one cannot be counted from the beginning.
        DiedError: if one dies, or cannot be counted any more.
    """
    rows = []
    for pair, group in groupby(cases, attrgetter("pair")):
        together = list(group)
        columns = []
        for subject in SUBJECTS:
            column = []
            async with _serving(subject, pair, make) as target, Destinations() as destinations:
                driver = Driver(target.address, USER, destinations, Spending(BANDWIDTH))
                meter = Meter(target, driver, destinations)
                try:
                    await meter.left(_WARMING, 1, meter.quick)
                    for case in together:
                        tell(subject, case)
                        changed = await meter.left(case.sequence, copies, patience)
                        column.append(Measured(*changed, copies))
                except (CounterError, UnreachableError, OSError) as error:
                    died = await target.died() or str(error)
                    log = "".join(f"\n  {line}" for line in target.log())
                    raise DiedError(f"{subject} server of {pair}: {died}{log}") from None
            columns.append(column)
        rows += [CaseRow(*each) for each in zip(together, *columns, strict=True)]
    return rows


@asynccontextmanager
async def _serving(subject: str, pair: str, make: Make) -> AsyncIterator[RemoteServer]:
    """Start a server, on other ports if it cannot have these; end it whatever happens."""
    for attempt in range(1, ATTEMPTS + 1):
        target = make(subject, pair)
        try:
            try:
                await target.start()
            except (StartError, CounterError):
                if attempt == ATTEMPTS:
                    raise
                continue
            yield target
            return
        finally:
            target.stop(kill=True)


class Servers:
    """Makes the servers of one real program and of the twins, on free ports of loopback.

    Use as a context manager: the files that configure them are gone after it.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._folder = tempfile.TemporaryDirectory(prefix="muxleak-real-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()

    def __call__(self, subject: str, pair: str) -> RemoteServer:
        """Make the server of a subject, for a pair."""
        port, debug = free_port(), free_port()
        if subject == "real":
            path = Path(self._folder.name) / f"{port}.json"
            path.write_text(json.dumps(SERVERS[self._program.name](port, debug)), "utf-8")
            words, pprof = [*self._program.command, str(path)], f"http://{LOOPBACK}:{debug}"
        else:
            words = [*child_process.module("muxleak"), "serve", "--no-limits", "--json"]
            words += ["--version", f"{pair}/{subject}", "--listen", f"{LOOPBACK}:{port}"]
            words += ["--debug", f"{LOOPBACK}:{debug}", "--user", str(USER)]
            pprof = f"http://{LOOPBACK}:{debug}/debug/tasks"
        return RemoteServer((LOOPBACK, port), pprof=[pprof], command=shlex.join(words))
