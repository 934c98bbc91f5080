"""Negative controls: they are not flagged, and are flagged without their bound."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from muxleak import settle
from muxleak_scenarios import Sequence, SimTarget, TcpTarget, run_sequence
from muxleak_scenarios.pairs.check import check_sequence
from muxleak_scenarios.pairs.negative_controls import (
    CONTROLS,
    POOLED,
    AccessLog,
    Control,
    Pool,
    Twin,
    try_control,
)
from muxleak_scenarios.sequence.decoder import WIDTH, decode
from muxleak_scenarios.sequence.limits import LIMITS
from muxleak_scenarios.targets.run import SequenceRun
from muxleak_scenarios.targets.target import Allowance
from muxleak_vless import Address, Context, Lifecycle
from muxleak_vless.link import Link

if TYPE_CHECKING:
    from muxleak_vless import Limits

EACH = pytest.mark.parametrize("name", CONTROLS)
TWINS = [(control, label) for control in CONTROLS.values() for label in control.twins]
BASES: tuple[type[SimTarget | TcpTarget], ...] = (SimTarget, TcpTarget)


def seen_after(
    name: str, line: str, base: type[SimTarget | TcpTarget] = SimTarget
) -> tuple[int, int]:
    """Return the tasks and outgoing connections of a control after a line, and after settling."""
    control = CONTROLS[name]
    server = control.target(base)(control.lifecycle())
    try:
        run = SequenceRun(server)
        run.steps(Sequence.parse(line))
        at_once = server.ledger.count + server.open_links(None)
        server.settle()
        return at_once, server.ledger.count + server.open_links(None)
    finally:
        server.dispose()


@EACH
@pytest.mark.parametrize("base", BASES)
def test_control_is_not_flagged(name: str, base: type[SimTarget | TcpTarget]) -> None:
    """It violates nothing on its own sequences, and ends with its server."""
    control = CONTROLS[name]
    for line in control.sequences:
        outcome = run_sequence(Sequence.parse(line), control.lifecycle(), control.target(base))

        assert outcome.violations == []
        assert outcome.left_after_end == 0


@EACH
def test_control_is_not_flagged_on_random_sequences(name: str) -> None:
    """Random sequences do not flag it either."""
    control, random = CONTROLS[name], Random(7)
    for _ in range(5):
        sequence = decode(random.randbytes(WIDTH * 60))

        check_sequence(sequence, control.lifecycle, control.target(SimTarget))


@pytest.mark.slow
@EACH
def test_try_control_holds(name: str) -> None:
    """All that is claimed of it, with several hundred sequences and another seed."""
    trial = try_control(name, seed=1, sequences=500)

    assert trial.broken == []
    assert trial.holds
    assert trial.flagged == ()
    assert trial.connections > 5000
    assert set(trial.twins) == set(CONTROLS[name].twins)


@pytest.mark.parametrize(("control", "label"), TWINS, ids=[label for _, label in TWINS])
@pytest.mark.parametrize("base", BASES)
def test_control_without_its_bound_is_flagged(
    control: Control, label: str, base: type[SimTarget | TcpTarget]
) -> None:
    """It is flagged for the claimed properties and no others."""
    twin = control.twins[label]
    target = control.target(base, twin.switches)
    outcome = run_sequence(Sequence.parse(twin.minimal), twin.lifecycle(), target)

    assert outcome.violated == tuple(each for each in twin.fails if each not in base.unobservable)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("idle_pooled_connection", "a:open a:new:1:@echo+5 a:close"),
        ("service_task", "a:open a:new:1:sink a:close"),
    ],
)
def test_control_keeps_what_it_is_about(
    name: str, line: str, base: type[SimTarget | TcpTarget]
) -> None:
    """A control that kept nothing would show nothing."""
    assert seen_after(name, line, base)[1] == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("lingering_handler", "a:open a:new:1:echo a:close~9"),
        ("slow_close", "a:open cancel~9"),
    ],
)
def test_control_takes_its_time(name: str, line: str) -> None:
    """It is still there some iterations after the close, and gone after settling."""
    at_once, at_rest = seen_after(name, line)

    assert at_once > 0
    assert at_rest == 0


def test_try_control_finds_what_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that is in truth a leak does not hold, and says on which sequence."""
    monkeypatch.setattr(CONTROLS["service_task"].mixin, "allowance", Allowance())
    trial = try_control("service_task", sequences=1)

    assert not trial.holds
    assert trial.flagged == ("tasks",)
    assert "in SimTarget: a:open a:new:1:echo a:close" in trial.broken[0]
    assert trial.to_json()["flagged"] == ["tasks"]


def test_try_control_finds_what_outlives_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that may stay while the server runs must end with it."""
    monkeypatch.setattr("muxleak_scenarios.pairs.negative_controls._cancel", lambda *_: None)
    trial = try_control("service_task", sequences=1)

    assert trial.broken[0].startswith("expected 0 tasks when the server has ended, got 1")


def test_try_control_finds_a_twin_that_is_not_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twin that is as clean as its control makes that worthless."""
    vacuous = {"the same": Twin(minimal="a:open a:close", fails=("tasks",))}
    changed = {**CONTROLS, "slow_close": replace(CONTROLS["slow_close"], twins=vacuous)}
    monkeypatch.setattr("muxleak_scenarios.pairs.negative_controls.CONTROLS", changed)
    trial = try_control("slow_close", sequences=1)

    assert [line.partition(",")[0] for line in trial.broken] == ["the same: expected ('tasks'"] * 2


class Scripted:
    """A dial that gives links without a transport, and counts them."""

    def __init__(self) -> None:
        self.made: list[Link] = []
        self.dialled = asyncio.Event()

    async def __call__(self, address: Address, limits: Limits) -> Link:
        """Take a moment, as dials do."""
        del address
        await asyncio.sleep(0)
        link = Link(limits=limits)
        link.connection_made(FakeTransport())
        self.made.append(link)
        self.dialled.set()
        return link


class FakeTransport(asyncio.Transport):
    """Knows if it was closed."""

    closed = False

    def close(self) -> None:
        """Note it."""
        self.closed = True

    def is_closing(self) -> bool:
        """Return True if it was closed."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """Nothing is buffered."""
        return 0


@pytest.mark.asyncio
async def test_pool_keeps_one_and_gives_it_again() -> None:
    """Two at once need two; one is kept, and is the next one's."""
    dial = Scripted()
    pool = Pool(dial, LIMITS, Context.background().child("server"), most=1, apart=True)
    address = Address.of(POOLED, 7)
    one, two = [await pool._take(address) for _ in range(2)]
    pool._give(one)
    pool._give(two)

    assert (one.closing, two.closing) == (False, True)
    assert await pool._take(address) is one
    assert len(dial.made) == 2


@pytest.mark.asyncio
async def test_pool_loses_no_connection_to_a_cancellation() -> None:
    """Cancelled at the moment of success, its connection is the next one's."""
    dial = Scripted()
    pool = Pool(dial, LIMITS, Context.background().child("server"), most=1, apart=True)
    address = Address.of(POOLED, 7)
    taker = asyncio.get_running_loop().create_task(pool._take(address))
    await dial.dialled.wait()
    taker.cancel()
    await asyncio.wait([taker])

    assert await pool._take(address) is dial.made[0]
    assert len(dial.made) == 1


@pytest.mark.asyncio
async def test_pool_ends_with_its_server() -> None:
    """Idle connections are closed, later ones too, and nothing is dialled any more."""
    dial = Scripted()
    server = Context.background().child("server")
    pool = Pool(dial, LIMITS, server, most=1, apart=True)
    address = Address.of(POOLED, 7)
    one, two = [await pool._take(address) for _ in range(2)]
    pool._give(one)
    server.cancel()
    pool._give(two)

    assert (one.closing, two.closing) == (True, True)
    with pytest.raises(ConnectionAbortedError):
        await pool._take(address)


@pytest.mark.asyncio
async def test_access_log_writes_what_it_is_given() -> None:
    """In one task for each writer, until the server ends."""
    server = Context.background().child("server")
    log = AccessLog(server, apart=True)
    before = asyncio.all_tasks()
    for line in ("one", "two", "three"):
        log.note(line, "all")
    (task,) = asyncio.all_tasks() - before
    await settle()
    assert log.lines == 3

    server.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


def test_reference_has_no_allowance() -> None:
    """The reference has no allowance."""
    assert SimTarget.allowance == TcpTarget.allowance == Allowance(0, 0, 0)
    assert Control.__dataclass_fields__["lifecycle"].default is Lifecycle
