"""Runs cases against a real proxy and both variants of its twin, and counts all three alike."""

# The comparison means something only if the three differ in the server alone. Each of them is a
# process of its own on loopback, gets the same bytes from the same clients, dials destinations of
# the same code, and is counted from outside: stacks through its debug endpoint, descriptors through
# /proc. The twins are served without limits for writes and for idle streams, which would end what
# sing-box keeps, and publish their tasks in the form of Go's profile.
#
# - Servers start once for each pair and subject, not once for each case, because a start costs more
#   than a case. A case can therefore begin with the leaks of the case before it; only the change of
#   the counts is compared.
# - Before the first case a warm-up sequence makes the server create the objects that it keeps for
#   all connections.
# - The counts are divided by the copies and compared as fractions, without rounding: 19 leaks of 20
#   copies are not 1.
# - A port can be taken between its choice and its use, so a server that cannot start is tried again
#   on other ports.

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
"""Seconds for which the counts must stand still: longer than a server needs to close."""
BANDWIDTH = 100e6
SUBJECTS = ("real", "buggy", "fixed")
_WARM_UP = Sequence.parse("a:open a:new:1:@echo+5 a:end:1 a:close")

SERVERS: dict[str, Callable[[int, int], Config]] = {
    "sing-box": lambda port, debug: sing_box_server(port, USER, debug)
}
"""Configurations of the programs that can be counted, by the ports of service and pprof."""


class DiedError(Exception):
    """A server died or cannot be counted any more; the text has the reason and its last output."""


class Measured(NamedTuple):
    """Changes of the counts by a number of copies of a sequence, by stack.

    Attributes:
        held: change while the destinations are alive.
        kept: change after they have closed.
        copies: number of copies.
    """

    held: Counter[Stack]
    kept: Counter[Stack]
    copies: int

    @property
    def left(self) -> Left:
        """Growth for one repetition."""
        totals = (
            count for each in (self.held, self.kept) for count in (tasks(each), each[DESCRIPTORS])
        )
        return Left(*(Fraction(total, self.copies) for total in totals))

    def each(self, stack: Stack) -> tuple[Fraction, Fraction]:
        """Return the growth of a stack for one repetition: destinations alive, and closed."""
        return Fraction(self.held[stack], self.copies), Fraction(self.kept[stack], self.copies)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """Stacks of goroutines or tasks whose number changed, sorted."""
        found = {
            stack
            for each in (self.held, self.kept)
            for stack, count in each.items()
            if count and tasks(Counter({stack: count}))
        }
        return tuple(sorted(found))


class CaseRow(NamedTuple):
    """A case with its measurements.

    Attributes:
        case: the case.
        real: of the real program.
        buggy: of the buggy variant.
        fixed: of the fixed variant.
    """

    case: Case
    real: Measured
    buggy: Measured
    fixed: Measured

    def claim(self, subject: str) -> Left:
        """Return the claimed growth of one of `SUBJECTS`."""
        return {"real": self.case.real, "buggy": self.case.twin, "fixed": Left()}[subject]

    def measured(self, subject: str) -> Measured:
        """Return the measurement of one of `SUBJECTS`."""
        return {"real": self.real, "buggy": self.buggy, "fixed": self.fixed}[subject]

    def holds(self, subject: str) -> bool:
        """Return True if the measured growth of one of `SUBJECTS` is the claimed one."""
        return self.measured(subject).left == self.claim(subject)

    @property
    def agrees(self) -> bool:
        """True if the claims of all three hold."""
        return all(map(self.holds, SUBJECTS))


async def compare(
    cases: Iterable[Case],
    make: Make,
    *,
    copies: int = COPIES,
    patience: float = PATIENCE,
    tell: Callable[[str, Case], None] = lambda _who, _case: None,
) -> list[CaseRow]:
    """Measure every case at every subject.

    Args:
        cases: the cases; neighbours of one pair share their servers.
        make: makes the server of one of `SUBJECTS`, for the slug of a pair.
        copies: number of repetitions.
        patience: seconds for which the counts must stand still.
        tell: called with the subject and the case before each measurement.

    Raises:
        StartError: a server cannot be started.
        CounterError: a server cannot be counted from the start.
        DiedError: a server died, or cannot be counted any more.
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
                    await meter.left(_WARM_UP, 1, meter.quick)
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
    """Start a server, on other ports if it does not start on these; kill it in the end."""
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
    """Makes the servers of a real program and of its twins, on free ports of loopback.

    A context manager, which deletes the configuration files at its end.

    Args:
        program: the real program.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._folder = tempfile.TemporaryDirectory(prefix="muxleak-real-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()

    def __call__(self, subject: str, pair: str) -> RemoteServer:
        """Return the server of a subject, not yet started.

        Args:
            subject: one of `SUBJECTS`.
            pair: slug of the pair.
        """
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
