"""Tests of the search: its measurements, its findings and its end, with fake servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import cycle
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest

from muxleak_scenarios.hunt import hunt as hunts
from muxleak_scenarios.hunt import pattern
from muxleak_scenarios.hunt.counters import CounterError
from muxleak_scenarios.hunt.findings import HuntOutcome
from muxleak_scenarios.hunt.hunt import Hunt, HuntBudget, HuntProgress, HuntResult
from muxleak_scenarios.hunt.measure import BATCHES, COPIES, RepetitionGrowth
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from muxleak.search import Finding
    from muxleak_scenarios.hunt.batch import Driver
    from muxleak_scenarios.hunt.destinations import Destinations
    from muxleak_scenarios.hunt.remote_server import RemoteServer
    from muxleak_scenarios.hunt.stacks import Stack

USER = UUID(int=1)
POLL: Stack = ("io.Read",)
PIPE: Stack = ("io.(*pipe).read",)
EXITED = "exited with status 2"
SHORT = "a:open a:new:1:@echo a:end:1 a:close"
LONG = "a:open b:open a:new:1:@echo b:data:7+5 a:data:1+5 a:end:1 a:close b:close"
OTHER = "a:open a:udp:1:@echo a:close"
LONGER = "a:open a:keepalive a:udp:1:@echo+5 a:close"
PLAIN = "a:open a:keepalive a:close"


def seq(line: str) -> Sequence:
    """Return the sequence of a line."""
    return Sequence.parse(line)


def leaves(stack: Stack, count: int = 1) -> RepetitionGrowth:
    """Return the growth of a leak that stays for ever."""
    return RepetitionGrowth(Counter({stack: count}), Counter({stack: count}))


def goes(stack: Stack, seconds: float) -> RepetitionGrowth:
    """Return the growth that the server ends by itself after so many seconds."""
    return RepetitionGrowth(Counter(), Counter(), passing=Counter({stack: 1}), gone=seconds)


class FakeServer:
    """A fake server and meter, whose growth depends on the patterns that a sequence contains.

    Attributes:
        quick: growth in a quick measurement, by pattern.
        waited: growth after the long wait, by pattern, where it differs from `quick`.
        fatal: patterns that kill the server.
        cost: seconds of one measurement.
    """

    def __init__(self) -> None:
        self.address = ("127.0.0.1", 1)
        self.ours = False
        self.now = 0.0
        self.cost = 1.0
        self.quick: dict[str, RepetitionGrowth] = {}
        self.waited: dict[str, RepetitionGrowth] = {}
        self.fatal: dict[str, str] = {}
        self.fails: Callable[[int], bool] = lambda _: False
        self.dead = ""
        self.tries = 0
        self.measured: list[tuple[str, int]] = []
        self.settled: list[float] = []
        self.restarts = self.came_up = 0
        self.restarted: Callable[[], object] = bool
        self.stopped = False
        self.statuses: list[HuntProgress] = []
        self.told: list[tuple[int, int]] = []
        self.meter: Meter | None = None

    def log(self) -> tuple[str, ...]:
        """Return its last output."""
        return ("goodbye",)

    async def died(self) -> str:
        """Return how it died."""
        return self.dead

    async def restart(self, check: Callable[[], object] = bool) -> None:
        """Start it again."""
        self.restarts += 1
        self.dead = ""
        self.restarted()
        check()
        self.came_up += 1

    def hunt(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *lines: str,
        replays: list[Sequence] | None = None,
        known: list[HuntOutcome] | None = None,
        **limits: Any,
    ) -> HuntResult:
        """Hunt it with these sequences, over and over."""
        drawn = cycle(map(seq, lines or [""]))

        def draw(_random: Random) -> Sequence:
            return next(drawn)

        def meter(_target: object, driver: Driver, _hosts: object, _clock: object) -> Meter:
            self.meter = Meter(self, driver)
            return self.meter

        monkeypatch.setattr(hunts, "draw", draw)
        monkeypatch.setattr(hunts, "Meter", meter)
        one = Hunt(
            cast("RemoteServer", self),
            USER,
            cast("Destinations", None),
            limits=HuntBudget(**{"connections": 600, "seconds": 1e6, **limits}),
            known=known,
            progress=self.statuses.append,
            found=lambda result: self.told.append((len(result.findings), len(result.passing))),
            stopped=lambda: self.stopped,
            clock=lambda: self.now,
        )
        return asyncio.run(one.run(replays))


class Meter:
    """A meter that samples the fake server."""

    def __init__(self, fake: FakeServer, driver: Driver) -> None:
        self._fake = fake
        self._driver = driver
        self.quick = 0.25

    async def settle(self, *, patience: float) -> None:
        """Wait."""
        self._fake.now += patience
        self._fake.settled.append(patience)

    async def grow(
        self, sequence: Sequence, batches: tuple[int, ...] = (COPIES,), patience: float = 0
    ) -> RepetitionGrowth:
        """Measure."""
        fake, copies = self._fake, sum(batches)
        fake.tries += 1
        fake.now += fake.cost
        self._driver.spending.check()
        self._driver.spending.connections += copies
        self._driver.spending.delay(100)
        if fake.dead or fake.fails(fake.tries):
            raise CounterError("no profile")
        fake.measured.append((str(sequence), copies))

        def done(lines: dict[str, Any]) -> list[str]:
            return [each for each in lines if pattern.find(seq(each), sequence) is not None]

        for line in done(fake.fatal):
            fake.dead = fake.fatal[line]
            raise CounterError("no profile")
        growth = RepetitionGrowth(Counter(), Counter())
        for line in done(fake.quick):
            one = fake.waited.get(line, fake.quick[line]) if patience else fake.quick[line]
            growth = RepetitionGrowth(
                growth.held + one.held,
                growth.kept + one.kept,
                passing=growth.passing + one.passing,
                gone=max(growth.gone, one.gone),
                settled=growth.settled and one.settled,
            )
        return growth


@pytest.fixture
def fake() -> FakeServer:
    """Return a server that leaves nothing so far."""
    return FakeServer()


def summary(found: list[Finding[HuntOutcome]]) -> list[tuple[str, bool, bool]]:
    """Return sequence, shrunk and confirmed of findings."""
    outcomes = [each.outcome for each in found]
    return [(str(each.sequence), each.shrunk, each.confirmed) for each in outcomes]


def test_hunt_ends_with_enough_findings_each_once(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known findings are left out of later sequences; others are found and shrunk all the same."""
    fake.quick = {SHORT: leaves(POLL), OTHER: leaves(PIPE, 2)}
    result = fake.hunt(monkeypatch, LONG, LONG, f"{LONG} c:open c:udp:1:@echo", findings=2)

    assert (result.ended, result.suspicion, result.passing) == ("enough", None, [])
    assert summary(result.findings) == [(SHORT, True, True), (OTHER, True, True)]
    assert [each.outcome.growth.tasks for each in result.findings] == [(1, 1), (2, 2)]
    assert result.measurements == len(fake.measured) == len(fake.statuses)
    assert result.connections == sum(copies for _, copies in fake.measured)
    assert result.sent == 100 * len(fake.measured)
    assert {status.doing for status in fake.statuses} == {"searches", "shrinks", "measures"}
    assert [copies for _, copies in fake.measured].count(sum(BATCHES)) == 2


def test_hunt_tells_each_finding_when_it_has_it(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also growth that passes, so that a hunt that is killed loses none."""
    fake.quick = {SHORT: leaves(POLL), OTHER: leaves(PIPE, 2)}
    fake.waited = {OTHER: goes(PIPE, 9.0)}
    result = fake.hunt(monkeypatch, LONG, LONGER)

    assert [str(each.outcome.sequence) for each in result.findings] == [SHORT]
    assert [str(each.sequence) for each in result.passing] == [OTHER]
    assert fake.told == [(1, 0), (1, 1)]


def test_growth_of_counts_that_never_stand_still_is_no_finding(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a hunt with nothing else has not found that there is nothing."""
    fake.quick = {"a:open": leaves(POLL)._replace(settled=False)}
    result = fake.hunt(monkeypatch, LONG, seconds=200)

    assert (result.findings, result.passing, result.suspicion) == ([], [], None)
    assert result.unsettled == result.completed == result.measurements - 1
    assert result.unmeasured
    fake = FakeServer()
    fake.quick = {SHORT: leaves(POLL)}
    fake.waited = {SHORT: leaves(POLL)._replace(settled=False)}
    result = fake.hunt(monkeypatch, LONG, seconds=200)
    assert (result.findings, result.passing) == ([], [])
    assert 0 < 2 * result.unsettled < result.completed
    assert not result.unmeasured
    clean = FakeServer().hunt(monkeypatch, PLAIN, seconds=200)
    assert (clean.unsettled, clean.unmeasured) == (0, False)


def test_hunt_without_one_whole_measurement_has_not_measured(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time was up before."""
    fake.cost = 30
    result = fake.hunt(monkeypatch, PLAIN, seconds=20)

    assert (result.ended, result.completed, result.unmeasured) == ("time", 0, True)


def test_hunt_files_equal_growth_once(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another sequence with a multiple of a known growth counts as explained."""
    fake.quick = {SHORT: leaves(POLL), OTHER: leaves(POLL, 3)}
    result = fake.hunt(monkeypatch, LONG, LONGER)

    assert result.ended == "connections"
    assert summary(result.findings) == [(SHORT, True, True)]
    assert result.suspicion is None
    assert result.explained > 1


def test_hunt_subtracts_the_leak_of_every_connection(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leak of every connection cannot be left out, and is no second finding."""
    fake.quick = {"a:open a:close": leaves(POLL)}
    known = [HuntOutcome(sequence=seq("a:open a:close"), growth=leaves(POLL))]
    result = fake.hunt(monkeypatch, PLAIN, known=known)

    assert (result.ended, result.findings, result.explained) == ("connections", [], 0)


def test_hunt_ends_when_nothing_is_left_to_try(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hunt also ends when its time is up, or when it is stopped."""
    assert fake.hunt(monkeypatch).ended == "known"
    assert fake.measured == []
    assert fake.hunt(monkeypatch, PLAIN, seconds=20).ended == "time"
    assert len(fake.measured) == 20 - 1
    fake.stopped = True
    assert fake.hunt(monkeypatch, PLAIN).ended == "stopped"


def test_shrinking_does_not_measure_known_sequences(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the step that opens again, two streams on two connections are on one."""
    twice = "a:open a:new:1:@echo a:new:1:@echo a:close"
    apart = "a:open a:new:1:@echo a:open a:new:1:@echo a:close"
    fake.quick = {apart: leaves(PIPE), twice: leaves(POLL)}
    known = [HuntOutcome(sequence=seq(twice), growth=leaves(POLL))]
    result = fake.hunt(monkeypatch, apart, known=known, findings=1)

    assert summary(result.findings) == [(apart, True, True)]
    assert twice not in {each for each, _ in fake.measured}


@pytest.mark.parametrize(("ours", "restarts"), [(False, 0), (True, 2)])
def test_server_of_ours_is_started_again_before_and_after_it_is_measured(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, restarts: int, *, ours: bool
) -> None:
    """Leftovers of the measurements go with a restart; another's server is left alone."""
    fake.ours, fake.quick = ours, {SHORT: leaves(POLL)}

    assert len(fake.hunt(monkeypatch, LONG, findings=1).findings) == 1
    assert fake.restarts == restarts


def test_death_of_a_server_of_ours_is_shrunk_to_its_cause(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is the death and not a leak, and the death is reported once."""
    fake.ours = True
    fake.fatal = {SHORT: EXITED, "a:open b:open a:close b:close": EXITED}
    fake.quick = {"a:open a:new:1:@echo a:close": leaves(POLL)}
    result = fake.hunt(monkeypatch, LONG.replace("b:", "a:"), "a:open b:open", findings=2)

    died, leak = (each.outcome for each in result.findings)
    assert (str(died.sequence), died.died, died.shrunk, died.log) == (
        *(SHORT, EXITED, True),
        ("goodbye",),
    )
    assert (leak.died, str(leak.sequence)) == ("", "a:open a:new:1:@echo a:close")
    assert fake.restarts > 1


def test_server_that_dies_when_it_is_measured_ends_the_hunt(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not ours cannot be hunted further; its death is the finding."""

    def fails(_tries: int) -> bool:
        fake.dead = EXITED if fake.statuses[-1].doing == "measures" else ""
        return bool(fake.dead)

    fake.fails, fake.quick = fails, {SHORT: leaves(POLL)}
    result = fake.hunt(monkeypatch, LONG)

    assert (result.ended, result.suspicion) == ("died", None)
    found = result.findings[0].outcome
    assert (str(found.sequence), found.died, found.shrunk) == (SHORT, EXITED, False)


@pytest.mark.parametrize("dies", [False, True])
def test_hunt_measures_its_candidate_when_time_runs_out(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, *, dies: bool
) -> None:
    """The shortest so far is measured, marked as perhaps not minimal; also for a death."""
    fake.ours, fake.cost = True, 10.0
    fake.fatal, fake.quick = ({SHORT: EXITED}, {}) if dies else ({}, {SHORT: leaves(POLL)})
    result = fake.hunt(monkeypatch, LONG, seconds=60)

    found = result.findings[0].outcome
    assert (found.shrunk, found.died) == (False, EXITED if dies else "")
    assert len(seq(SHORT)) <= len(found.sequence) < len(seq(LONG))
    assert found.confirmed
    assert result.ended == "time"


def test_measurements_that_fail_now_and_then_are_repeated(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may fail to answer now and then, but not three times in a row."""
    fake.fails = lambda tries: tries % 3 != 0
    assert fake.hunt(monkeypatch, PLAIN).ended == "connections"

    fake.fails, fake.tries = (lambda _: True), 0
    result = fake.hunt(monkeypatch, PLAIN)
    assert (result.ended, result.trouble, fake.tries) == ("trouble", "no profile", 3)


def test_growth_that_goes_soon_lengthens_later_measurements(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growth that goes soon is no finding, and later quick measurements wait longer."""
    fake.quick, fake.waited = {SHORT: leaves(POLL)}, {SHORT: goes(POLL, 1.0)}
    result = fake.hunt(monkeypatch, LONG, connections=60)

    assert (result.findings, result.passing, result.unsure > 0) == ([], [], True)
    assert fake.meter is not None
    assert fake.meter.quick == (1.25 if result.unsure == 1 else 2.5)


def test_growth_that_goes_late_is_filed_and_left_out(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its quick growth is known, so no other sequence with that growth is filed."""
    fake.quick = {SHORT: leaves(POLL, 2), OTHER: leaves(POLL, 2)}
    fake.waited = {SHORT: goes(POLL, 15.0), OTHER: goes(POLL, 15.0)}
    result = fake.hunt(monkeypatch, LONG, LONGER)

    (passing,) = result.passing
    assert (str(passing.sequence), passing.gone, passing.growth.held) == (SHORT, 15, {POLL: 1})
    assert (result.ended, result.findings, result.unsure) == ("connections", [], 0)
    assert result.explained > 1


@pytest.mark.parametrize("ours", [False, True])
def test_hunt_waits_for_late_growth_before_it_goes_on(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, *, ours: bool
) -> None:
    """Older growth would go during the next measurement; a restart or a wait prevents that."""
    fake.ours = ours
    fake.quick = {SHORT: leaves(POLL), OTHER: leaves(POLL)}
    fake.waited = {SHORT: goes(POLL, 15.0), OTHER: goes(POLL, 15.0)}
    fake.hunt(monkeypatch, LONG, LONGER, PLAIN)

    assert (15.0 in fake.settled) is not ours
    # Not before each measurement, since a restarted server has no leftovers.
    assert (2 < fake.restarts < len(fake.measured) / 2) is ours


def test_growth_hidden_by_other_measurements_is_shrunk_again(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first nothing shorter seems to leak; once the wait is known, it does."""
    long = str(seq(LONG).canonical())
    fake.quick, fake.waited = {long: leaves(POLL)}, {SHORT: goes(POLL, 15.0)}
    fake.waited[long] = goes(POLL, 15.0)
    settle = Meter.settle

    async def settled(meter: Meter, *, patience: float) -> None:
        await settle(meter, patience=patience)
        if len(fake.measured) > 10:
            fake.quick = {SHORT: leaves(POLL)}

    monkeypatch.setattr(Meter, "settle", settled)
    result = fake.hunt(monkeypatch, LONG)
    assert [str(each.sequence) for each in result.passing] == [SHORT]


def test_server_that_does_not_come_up_again_ends_the_hunt(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The findings so far and the reason are kept; a stop need not wait for the server."""

    def measured() -> bool:
        return fake.measured[-1][1] == sum(BATCHES)

    def lost() -> None:
        if measured():
            raise CounterError("no profile")

    fake.ours, fake.quick, fake.restarted = True, {SHORT: leaves(POLL)}, lost
    result = fake.hunt(monkeypatch, LONG)
    assert (result.ended, len(result.findings)) == ("trouble", 1)
    assert result.trouble == "the server did not come up again: no profile"

    fake.restarted = lambda: setattr(fake, "stopped", measured())
    result = fake.hunt(monkeypatch, LONG)
    assert (result.ended, len(result.findings)) == ("stopped", 1)
    # In either hunt the last measurement did not finish.
    assert fake.restarts == fake.came_up + 2


@pytest.mark.parametrize(("ours", "ended", "found"), [(True, "time", 0), (False, "died", 1)])
def test_known_death_is_not_reported_again(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, ended: str, found: int, *, ours: bool
) -> None:
    """A known death is not reported again, unless it ends the hunt."""
    fake.ours, fake.cost, fake.fatal = ours, 10.0, {SHORT: EXITED}
    known = [HuntOutcome(sequence=seq(OTHER), died=EXITED)]
    result = fake.hunt(monkeypatch, LONG, seconds=40, patience=0.1, known=known)

    assert (result.ended, len(result.findings), result.suspicion) == (ended, found, None)
