"""Tests of the meter: the growth that it computes from counts, and how exact that is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest

from muxleak_scenarios.hunt.batch import Spending
from muxleak_scenarios.hunt.counters import Snapshot
from muxleak_scenarios.hunt.measure import BATCHES, Meter, RepetitionGrowth
from muxleak_scenarios.sequence.steps import Sequence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muxleak.sim.virtual_loop import VirtualLoop
    from muxleak_scenarios.hunt.batch import Driver
    from muxleak_scenarios.hunt.destinations import Destinations
    from muxleak_scenarios.hunt.stacks import Stack

POLL: Stack = ("io.Read",)
PIPE: Stack = ("io.(*pipe).read",)
LINE = Sequence.parse("a:open a:close")
COPIES = sum(BATCHES)


class Lab:
    """Server, driver and destinations on virtual time.

    Attributes:
        total: returns the counts of the server after so many copies.
        alive: True while the destinations are alive.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.alive = True
        self.copies = self.samples = self.traffic = 0
        self.spending = Spending(1e9, self.check)
        self.stopped = False
        self.total: Callable[[int], Counter[Stack]] = lambda _: Counter()
        self.gone: Counter[Stack] = Counter()
        self.memory: Callable[[int], int | None] = lambda _: None
        self.moves = 0
        self.meter = Meter(self, cast("Driver", self), cast("Destinations", self), loop.time)

    async def read(self) -> Snapshot:
        """Take a sample."""
        self.samples += 1
        moving = Counter({("moves",): self.samples}) if self.samples <= self.moves else Counter()
        counts = self.total(self.copies) + moving
        return Snapshot(counts if self.alive else counts - self.gone, self.memory(self.copies))

    async def run(
        self, _sequence: Sequence, copies: int, rest: Callable[[], Awaitable[object]]
    ) -> None:
        """Repeat so many copies."""
        self.copies += copies
        await rest()

    def leave(self) -> None:
        """Close the destinations."""
        self.alive = False

    def check(self) -> None:
        """Raise if the hunt is stopped."""
        if self.stopped:
            raise InterruptedError

    def grow(self, batches: tuple[int, ...] = BATCHES, patience: float = 1.0) -> RepetitionGrowth:
        """Measure."""
        return self.loop.run_until_complete(self.meter.grow(LINE, batches, patience))


@pytest.fixture
def lab(loop: VirtualLoop) -> Lab:
    """Return a server that leaves nothing so far."""
    return Lab(loop)


def test_growth_is_what_is_left_while_destinations_live_and_after(lab: Lab) -> None:
    """Destinations close before the second count; growth that stays has no time of its end."""
    lab.total = lambda copies: Counter({POLL: 2 * copies, PIPE: copies})
    lab.gone = Counter({POLL: COPIES})

    assert lab.grow() == RepetitionGrowth(Counter({POLL: 2, PIPE: 1}), Counter({POLL: 1, PIPE: 1}))


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        pytest.param(lambda copies: copies * 7 // 4, 2, id="seven of four copies"),
        pytest.param(lambda copies: copies * 5 // 4, 1, id="five of four copies"),
        pytest.param(lambda copies: copies * 3 // 2, 2, id="three of two copies"),
        pytest.param(lambda copies: copies // 2, 1, id="one of two copies"),
    ],
)
def test_growth_of_a_race_is_rounded_to_the_nearest(
    left: Callable[[int], int], kept: int, lab: Lab
) -> None:
    """Half a leak for each repetition counts as one, and no such growth is exact."""
    lab.total = lambda copies: Counter({POLL: left(copies)})

    assert lab.grow()[:3] == (Counter({POLL: kept}), Counter({POLL: kept}), False)


def test_growth_that_does_not_come_to_whole_numbers_is_not_exact(lab: Lab) -> None:
    """Some of the two that each copy left went by themselves, or with the destinations."""
    lab.total = lambda copies: Counter({POLL: 2 * copies})
    lab.gone = Counter({POLL: COPIES // 2})

    assert lab.grow()[:3] == (Counter({POLL: 2}), Counter({POLL: 1}), False)


@pytest.mark.parametrize(
    ("ended", "stays", "passes"),
    [(16, 1, 1), (12, 1, 1), (20, 1, 1), (24, 1, 1), (25, 0, 2), (4, 2, 0)],
)
def test_growth_that_goes_is_separated_from_growth_that_stays(
    ended: int, stays: int, passes: int, lab: Lab
) -> None:
    """The split is by copy, to the nearest, and alike for both counts; the time is measured."""
    ends = 1.5

    def total(copies: int) -> Counter[Stack]:
        late = copies == COPIES and lab.loop.time() >= ends
        return Counter({POLL: 2 * copies - late * ended})

    lab.total = total
    growth = lab.grow(patience=2.0)

    assert growth.held == growth.kept == +Counter({POLL: stays})
    assert growth.passing == +Counter({POLL: passes})
    assert growth.exact is (ended in {16, 25})
    assert (0 < growth.gone < ends) is bool(passes)


def test_objects_kept_for_later_are_no_leak(lab: Lab) -> None:
    """Growth that did not come with each batch is rounded down: less than one for each copy."""

    def total(copies: int) -> Counter[Stack]:
        late = copies == COPIES and lab.loop.time() >= 1
        return Counter({POLL: copies // 16 * (9 + late)})

    lab.total = total

    assert not lab.grow(patience=2.0).leaks


def test_memory_is_measured_without_the_first_batch(lab: Lab) -> None:
    """Caches grow in the first batch, which a quick measurement cannot leave out."""
    lab.memory = lambda copies: 5000 * bool(copies) + 100 * copies

    assert lab.grow().memory == 100
    lab.copies = 0
    assert lab.grow((4,), 0).memory == 5400 // 4
    lab.memory = lambda _: None
    assert lab.grow().memory is None


def test_wait_for_counts_ends_when_it_is_stopped(lab: Lab) -> None:
    """A stop ends the wait also when the counts never stand still."""
    lab.moves = 10**9
    lab.loop.call_later(0.5, setattr, lab, "stopped", True)  # noqa: FBT003 - setattr's own signature

    with pytest.raises(InterruptedError):
        lab.grow()
    assert lab.loop.time() < 0.6


def test_sample_that_takes_long_ends_when_the_hunt_is_stopped(lab: Lab) -> None:
    """A profile of tens of megabytes takes seconds; its reader is ended, too."""
    ended = 0

    async def read() -> Snapshot:
        nonlocal ended
        try:
            await lab.loop.create_future()
        finally:
            ended += 1
        raise AssertionError

    lab.read = read  # type: ignore[method-assign]
    lab.loop.call_later(2, setattr, lab, "stopped", True)  # noqa: FBT003 - setattr's own signature

    with pytest.raises(InterruptedError):
        lab.grow()
    assert ended == 1
    assert 2 <= lab.loop.time() < 2.2


@pytest.mark.parametrize(("moves", "settled"), [(0, True), (50, True), (10**9, False)])
def test_growth_is_known_only_if_the_counts_stood_still(
    lab: Lab, moves: int, *, settled: bool
) -> None:
    """Counts that still change at the end of the longest wait are taken, and marked."""
    lab.moves = moves
    assert lab.grow((3,), 0).settled is settled
    lab.samples, lab.moves = 0, 0
    assert lab.grow((3,), 0).settled is True


def test_server_has_settled_when_its_counts_do_not_move(loop: VirtualLoop) -> None:
    """The next step waits until the counts stand still, but not longer than the limit."""
    at: list[int] = []

    class Stepping(Lab):
        async def run(
            self, _sequence: Sequence, _copies: int, rest: Callable[[], Awaitable[object]]
        ) -> None:
            for moves in (10, 10**9):
                self.samples, self.moves = 0, moves
                await rest()
                at.append(self.samples)

    lab = Stepping(loop)
    loop.run_until_complete(lab.meter.left(LINE, 1, 0.1))
    assert at[0] == 12
    assert 100 < at[1] < 1000
