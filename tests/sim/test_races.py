"""Two races that need a gap: found and shrunk to the minimum on every seed, never when settling.

Both are models of faults that were fixed in real multiplexers: a slot that is granted to a waiter
in the moment in which that is cancelled (quic-go #5037), and a wake-up that comes between the look
and the wait (yamux #127).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from muxleak.search import find_leaks
from muxleak.sim import Choices, current, replay, simulate

STEPS = 12
BUDGET = 20_000  # runs; five seeds took 173 to 2,888 for slots, 1 to 51 for the pulse

Program = Callable[[], Coroutine[Any, Any, None]]


class Slots:
    """One slot for streams; whoever finds it taken waits in line."""

    def __init__(self, *, fixed: bool) -> None:
        self.free = 1
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.fixed = fixed

    async def take(self) -> None:
        """Take the slot, or wait for it."""
        while not self.free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self.waiting.remove(turn)
                self.left()
                raise
            self.waiting.remove(turn)
        self.free -= 1

    def left(self) -> None:
        """Somebody has left the line; the slot that was granted to them is another's."""
        if self.fixed and self.free:
            self.pass_on()

    def give(self) -> None:
        """Give it back."""
        self.free += 1
        self.pass_on()

    def pass_on(self) -> None:
        """Tell the first in line."""
        if self.waiting and not self.waiting[0].done():
            self.waiting[0].set_result(None)


class Streams:
    """User tasks that open streams, each of which ends on demand."""

    def __init__(self, *, fixed: bool) -> None:
        self.slots = Slots(fixed=fixed)
        self.users: list[asyncio.Task[None]] = []
        self.open: dict[int, asyncio.Future[None]] = {}

    async def use(self, number: int) -> None:
        """Be one user task."""
        await self.slots.take()
        self.open[number] = asyncio.get_running_loop().create_future()
        try:
            await self.open[number]
        finally:
            del self.open[number]
            self.slots.give()

    def possible(self) -> list[tuple[str, int]]:
        """The steps that mean something now; the first ends the sequence."""
        steps = [("end", 0), ("new", len(self.users) + 1)]
        steps += [("reset", number) for number, end in self.open.items() if not end.done()]
        for number, user in enumerate(self.users, start=1):
            if number not in self.open and not user.done():
                steps.append(("cancel", number))
        return steps

    def perform(self, step: str, number: int) -> None:
        """Take a step."""
        if step == "new":
            self.users.append(asyncio.create_task(self.use(number)))
        elif step == "reset":
            self.open[number].set_result(None)
        else:
            self.users[number - 1].cancel()

    def verify(self) -> None:
        """No slot is free while somebody waits for one."""
        assert not (self.slots.free and self.slots.waiting), "a slot is free and a stream waits"


class Inbox:
    """Readers that look, then wait for a pulse, which only those hear who wait already."""

    def __init__(self, *, fixed: bool) -> None:
        self.items: dict[int, int] = {}
        self.hearing: dict[int, asyncio.Future[None]] = {}
        self.users: list[asyncio.Task[None]] = []
        self.fixed = fixed

    async def read(self, number: int) -> None:
        """Be one reader, until its first item."""
        while not self.items[number]:
            if not self.fixed:
                await asyncio.sleep(0)  # for a lock, say
            self.hearing[number] = asyncio.get_running_loop().create_future()
            await self.hearing[number]
            del self.hearing[number]
        self.items[number] -= 1

    def possible(self) -> list[tuple[str, int]]:
        """The steps that mean something now; the first ends the sequence."""
        steps = [("end", 0), ("new", len(self.users) + 1)]
        return steps + [("data", number) for number in self.items]

    def perform(self, step: str, number: int) -> None:
        """Take a step."""
        if step == "new":
            self.items[number] = 0
            self.users.append(asyncio.create_task(self.read(number)))
            return
        self.items[number] += 1
        pulse = self.hearing.get(number)
        if pulse is not None and not pulse.done():
            pulse.set_result(None)

    def verify(self) -> None:
        """No reader waits for what is there."""
        waiting = [number for number in self.hearing if self.items[number]]
        assert not waiting, "a reader waits for what is there"


def program(model: type[Streams] | type[Inbox], *, fixed: bool) -> Program:
    """A sequence of steps and gaps, drawn by the state they lead to."""

    async def main() -> None:
        under_test, simulation = model(fixed=fixed), current()
        for _ in range(STEPS):
            step, number = simulation.choices.pick(under_test.possible())
            if step == "end":
                break
            simulation.step(f"{step} {number}")
            under_test.perform(step, number)
            await simulation.gap()
        await simulation.settle()
        under_test.verify()
        for user in under_test.users:
            user.cancel()

    return main


MINIMAL: dict[type[Streams] | type[Inbox], tuple[str, ...]] = {
    Streams: ("new 1", "new 2", "new 3", "reset 1 !0", "cancel 2"),
    Inbox: ("new 1 !1", "data 1"),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("model", MINIMAL)
def test_race_is_found_and_shrunk_to_its_minimum(
    model: type[Streams] | type[Inbox], seed: int
) -> None:
    """Whatever the seed, the same five, or two, steps remain."""
    found = find_leaks(program(model, fixed=False), examples=BUDGET, seed=seed)

    assert found is not None
    assert found.steps == MINIMAL[model]
    assert not found.beyond
    again = replay(found.replay.line, program(model, fixed=False))
    assert isinstance(again.error, AssertionError)
    assert tuple(again.steps) == MINIMAL[model]


@pytest.mark.parametrize("model", MINIMAL)
def test_race_is_not_found_when_every_step_settles(model: type[Streams] | type[Inbox]) -> None:
    """With settling after each step nothing is found, which is why gaps are drawn."""
    assert find_leaks(program(model, fixed=False), examples=1_000, gaps=False) is None


@pytest.mark.parametrize("model", MINIMAL)
def test_race_is_gone_in_the_fixed_program(model: type[Streams] | type[Inbox]) -> None:
    """The fixed program is clean, in the search and on the sequence that failed."""
    fixed = program(model, fixed=True)

    assert find_leaks(fixed, examples=1_000) is None
    found = find_leaks(program(model, fixed=False), examples=BUDGET)
    assert found is not None
    simulate(fixed, choices=Choices(found.replay.program, found.replay.environment))


@pytest.mark.slow
@pytest.mark.parametrize("model", MINIMAL)
def test_race_stays_hidden_and_gone_at_length(model: type[Streams] | type[Inbox]) -> None:
    """The whole budget, settling, or on the fixed program, finds nothing."""
    assert find_leaks(program(model, fixed=False), examples=BUDGET, gaps=False) is None
    assert find_leaks(program(model, fixed=True), examples=BUDGET) is None
