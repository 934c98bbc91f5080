"""The search: what it looks at, files, leaves out and ends with, of servers that are told."""

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
from muxleak_scenarios.hunt.findings import HuntFinding
from muxleak_scenarios.hunt.hunt import Hunt, HuntBudget, HuntProgress, HuntResult
from muxleak_scenarios.hunt.measure import BATCHES, COPIES, RepetitionGrowth
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

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
    """Read a line."""
    return Sequence.parse(line)


def leaves(stack: Stack, count: int = 1) -> RepetitionGrowth:
    """What leaks for ever."""
    return RepetitionGrowth(Counter({stack: count}), Counter({stack: count}))


def goes(stack: Stack, seconds: float) -> RepetitionGrowth:
    """What is gone by itself, when it is waited for."""
    return RepetitionGrowth(Counter(), Counter(), passing=Counter({stack: 1}), gone=seconds)


class World:
    """A server of which is told what sequences leave in it, by what they contain; its own meter.

    ``quick`` is what a quick look sees, ``waited`` what is seen when it is waited for, if that is
    something else; ``fatal`` kills it. A look takes ``cost`` seconds.
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
        self.looks: list[tuple[str, int]] = []
        self.settled: list[float] = []
        self.restarts = self.came_up = 0
        self.restarted: Callable[[], object] = bool
        self.stopped = False
        self.statuses: list[HuntProgress] = []
        self.meter: Meter | None = None

    def log(self) -> tuple[str, ...]:
        """Its last words."""
        return ("goodbye",)

    async def died(self) -> str:
        """Say how it is dead."""
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
        known: list[HuntFinding] | None = None,
        **limits: Any,
    ) -> HuntResult:
        """Hunt it with these sequences, again and again."""
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
            stopped=lambda: self.stopped,
            clock=lambda: self.now,
        )
        return asyncio.run(one.run(replays))


class Meter:
    """Counts the world."""

    def __init__(self, world: World, driver: Driver) -> None:
        self._world = world
        self._driver = driver
        self.quick = 0.25

    async def settle(self, *, patience: float) -> None:
        """Wait."""
        self._world.now += patience
        self._world.settled.append(patience)

    async def grow(
        self, sequence: Sequence, batches: tuple[int, ...] = (COPIES,), patience: float = 0
    ) -> RepetitionGrowth:
        """Look."""
        world, copies = self._world, sum(batches)
        world.tries += 1
        world.now += world.cost
        self._driver.spending.check()
        self._driver.spending.connections += copies
        self._driver.spending.delay(100)
        if world.dead or world.fails(world.tries):
            raise CounterError("no profile")
        world.looks.append((str(sequence), copies))

        def done(lines: dict[str, Any]) -> list[str]:
            return [each for each in lines if pattern.find(seq(each), sequence) is not None]

        for line in done(world.fatal):
            world.dead = world.fatal[line]
            raise CounterError("no profile")
        growth = RepetitionGrowth(Counter(), Counter())
        for line in done(world.quick):
            one = world.waited.get(line, world.quick[line]) if patience else world.quick[line]
            growth = RepetitionGrowth(
                growth.held + one.held,
                growth.kept + one.kept,
                passing=growth.passing + one.passing,
                gone=max(growth.gone, one.gone),
            )
        return growth


@pytest.fixture
def world() -> World:
    """A server that leaves nothing so far."""
    return World()


def told(found: list[HuntFinding]) -> list[tuple[str, bool, bool]]:
    """What is to be known of findings."""
    return [(str(each.sequence), each.shrunk, each.confirmed) for each in found]


def test_hunt_ends_with_enough_findings_each_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is kept out of what follows; the rest is found, and shrunk, all the same."""
    world.quick = {SHORT: leaves(POLL), OTHER: leaves(PIPE, 2)}
    result = world.hunt(monkeypatch, LONG, LONG, f"{LONG} c:open c:udp:1:@echo", findings=2)

    assert (result.ended, result.suspicion, result.passing) == ("enough", None, [])
    assert told(result.findings) == [(SHORT, True, True), (OTHER, True, True)]
    assert [each.growth.tasks for each in result.findings] == [(1, 1), (2, 2)]
    assert result.measurements == len(world.looks) == len(world.statuses)
    assert result.connections == sum(copies for _, copies in world.looks)
    assert result.sent == 100 * len(world.looks)
    assert {status.doing for status in world.statuses} == {"searches", "shrinks", "measures"}
    assert [copies for _, copies in world.looks].count(sum(BATCHES)) == 2


def test_hunt_files_what_leaves_the_same_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another sequence that leaves what is known, any number of times, is told as such."""
    world.quick = {SHORT: leaves(POLL), OTHER: leaves(POLL, 3)}
    result = world.hunt(monkeypatch, LONG, LONGER)

    assert result.ended == "connections"
    assert told(result.findings) == [(SHORT, True, True)]
    assert result.suspicion is None
    assert result.explained > 1


def test_hunt_takes_off_what_every_connection_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be kept out of a sequence, and is no finding a second time."""
    world.quick = {"a:open a:close": leaves(POLL)}
    known = [HuntFinding(seq("a:open a:close"), leaves(POLL))]
    result = world.hunt(monkeypatch, PLAIN, known=known)

    assert (result.ended, result.findings, result.explained) == ("connections", [], 0)


def test_hunt_ends_when_nothing_is_left_to_try(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when its time is up, or somebody stops it."""
    assert world.hunt(monkeypatch).ended == "known"
    assert world.looks == []
    assert world.hunt(monkeypatch, PLAIN, seconds=20).ended == "time"
    assert len(world.looks) == 20 - 1
    world.stopped = True
    assert world.hunt(monkeypatch, PLAIN).ended == "stopped"


def test_shrinking_does_not_look_at_what_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a step that opens again, two streams on two connections are on one."""
    twice = "a:open a:new:1:@echo a:new:1:@echo a:close"
    apart = "a:open a:new:1:@echo a:open a:new:1:@echo a:close"
    world.quick = {apart: leaves(PIPE), twice: leaves(POLL)}
    known = [HuntFinding(seq(twice), leaves(POLL))]
    result = world.hunt(monkeypatch, apart, known=known, findings=1)

    assert told(result.findings) == [(apart, True, True)]
    assert twice not in {each for each, _ in world.looks}


@pytest.mark.parametrize(("ours", "restarts"), [(False, 0), (True, 2)])
def test_server_of_ours_is_started_again_before_and_after_it_is_measured(
    world: World, monkeypatch: pytest.MonkeyPatch, restarts: int, *, ours: bool
) -> None:
    """What so many looks have left in it would go on in what follows; another's is left alone."""
    world.ours, world.quick = ours, {SHORT: leaves(POLL)}

    assert len(world.hunt(monkeypatch, LONG, findings=1).findings) == 1
    assert world.restarts == restarts


def test_server_of_ours_that_dies_is_shrunk_to_what_it_dies_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to what leaks, and not to anything that a dead server does; and it is told once."""
    world.ours = True
    world.fatal = {SHORT: EXITED, "a:open b:open a:close b:close": EXITED}
    world.quick = {"a:open a:new:1:@echo a:close": leaves(POLL)}
    result = world.hunt(monkeypatch, LONG.replace("b:", "a:"), "a:open b:open", findings=2)

    died, leak = result.findings
    assert (str(died.sequence), died.died, died.shrunk, died.log) == (
        *(SHORT, EXITED, True),
        ("goodbye",),
    )
    assert (leak.died, str(leak.sequence)) == ("", "a:open a:new:1:@echo a:close")
    assert world.restarts > 1


def test_server_that_dies_when_it_is_measured_ends_the_hunt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not ours is hunted no more, and what it died of is the finding."""

    def fails(_tries: int) -> bool:
        world.dead = EXITED if world.statuses[-1].doing == "measures" else ""
        return bool(world.dead)

    world.fails, world.quick = fails, {SHORT: leaves(POLL)}
    result = world.hunt(monkeypatch, LONG)

    assert (result.ended, result.suspicion) == ("died", None)
    (found,) = result.findings
    assert (str(found.sequence), found.died, found.shrunk) == (SHORT, EXITED, False)


@pytest.mark.parametrize("dies", [False, True])
def test_hunt_measures_what_it_has_when_its_time_runs_out(
    world: World, monkeypatch: pytest.MonkeyPatch, *, dies: bool
) -> None:
    """The shortest so far, which is perhaps not the shortest; also of what kills a server."""
    world.ours, world.cost = True, 10.0
    world.fatal, world.quick = ({SHORT: EXITED}, {}) if dies else ({}, {SHORT: leaves(POLL)})
    result = world.hunt(monkeypatch, LONG, seconds=90)

    (found,) = result.findings
    assert (found.shrunk, found.died) == (False, EXITED if dies else "")
    assert len(seq(SHORT)) <= len(found.sequence) < len(seq(LONG))
    assert found.confirmed
    assert result.ended == "time"


def test_looks_that_fail_now_and_then_are_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lives may fail to answer, but not so often in a row."""
    world.fails = lambda tries: tries % 3 != 0
    assert world.hunt(monkeypatch, PLAIN).ended == "connections"

    world.fails, world.tries = (lambda _: True), 0
    result = world.hunt(monkeypatch, PLAIN)
    assert (result.ended, result.trouble, world.tries) == ("trouble", "no profile", 3)


def test_what_goes_soon_is_looked_at_longer_from_then_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no finding, and the next look is not deceived by it."""
    world.quick, world.waited = {SHORT: leaves(POLL)}, {SHORT: goes(POLL, 1.0)}
    result = world.hunt(monkeypatch, LONG, connections=60)

    assert (result.findings, result.passing, result.unsure > 0) == ([], [], True)
    assert world.meter is not None
    assert world.meter.quick == (1.25 if result.unsure == 1 else 2.5)


def test_what_goes_late_is_filed_and_kept_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known by what a quick look sees of it: no other sequence that leaves the same is filed."""
    world.quick = {SHORT: leaves(POLL, 2), OTHER: leaves(POLL, 2)}
    world.waited = {SHORT: goes(POLL, 15.0), OTHER: goes(POLL, 15.0)}
    result = world.hunt(monkeypatch, LONG, LONGER)

    (passing,) = result.passing
    assert (str(passing.sequence), passing.gone, passing.growth.held) == (SHORT, 15, {POLL: 1})
    assert (result.ended, result.findings, result.unsure) == ("connections", [], 0)
    assert result.explained > 1


@pytest.mark.parametrize("ours", [False, True])
def test_hunt_waits_for_what_goes_late_before_it_looks_on(
    world: World, monkeypatch: pytest.MonkeyPatch, *, ours: bool
) -> None:
    """What other looks have left would go during the next: so long, or in a server started anew."""
    world.ours = ours
    world.quick = {SHORT: leaves(POLL), OTHER: leaves(POLL)}
    world.waited = {SHORT: goes(POLL, 15.0), OTHER: goes(POLL, 15.0)}
    world.hunt(monkeypatch, LONG, LONGER, PLAIN)

    assert (15.0 in world.settled) is not ours
    # Not before each look: what was started anew has nothing left in it.
    assert (2 < world.restarts < len(world.looks) / 2) is ours


def test_what_hid_behind_other_looks_is_shrunk_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first nothing shorter seems to leave anything; then it is known how long to wait."""
    long = str(seq(LONG).canonical())
    world.quick, world.waited = {long: leaves(POLL)}, {SHORT: goes(POLL, 15.0)}
    world.waited[long] = goes(POLL, 15.0)
    settle = Meter.settle

    async def settled(meter: Meter, *, patience: float) -> None:
        await settle(meter, patience=patience)
        if len(world.looks) > 10:
            world.quick = {SHORT: leaves(POLL)}

    monkeypatch.setattr(Meter, "settle", settled)
    result = world.hunt(monkeypatch, LONG)
    assert [str(each.sequence) for each in result.passing] == [SHORT]


def test_server_that_does_not_come_up_again_ends_the_hunt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what was found, and why; and whoever stops it need not wait for the server."""

    def measured() -> bool:
        return world.looks[-1][1] == sum(BATCHES)

    def lost() -> None:
        if measured():
            raise CounterError("no profile")

    world.ours, world.quick, world.restarted = True, {SHORT: leaves(POLL)}, lost
    result = world.hunt(monkeypatch, LONG)
    assert (result.ended, len(result.findings)) == ("trouble", 1)
    assert result.trouble == "the server did not come up again: no profile"

    world.restarted = lambda: setattr(world, "stopped", measured())
    result = world.hunt(monkeypatch, LONG)
    assert (result.ended, len(result.findings)) == ("stopped", 1)
    # In either hunt the last one did not come to its end.
    assert world.restarts == world.came_up + 2


@pytest.mark.parametrize(("ours", "ended", "found"), [(True, "time", 0), (False, "died", 1)])
def test_death_that_is_known_is_not_told_again(
    world: World, monkeypatch: pytest.MonkeyPatch, ended: str, found: int, *, ours: bool
) -> None:
    """Also when the time is up while it is shrunk; unless it is the end of the hunt."""
    world.ours, world.cost, world.fatal = ours, 10.0, {SHORT: EXITED}
    nothing = RepetitionGrowth(Counter(), Counter())
    known = [HuntFinding(seq(OTHER), nothing, died=EXITED)]
    result = world.hunt(monkeypatch, LONG, seconds=40, patience=0.1, known=known)

    assert (result.ended, len(result.findings), result.suspicion) == (ended, found, None)
