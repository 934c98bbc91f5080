"""The shrinker on steps: it deletes them whole, and follows what they renumber."""

from collections.abc import Callable, Iterator

import pytest

from muxleak.search.shrink import shrink
from muxleak.search.subject import Decisions, Outcome, Subject
from muxleak.sim import Choices, Replay

Event = tuple[int, int, int]


class Events(Subject[Outcome]):
    """A subject whose run is a list of events of three draws; it fails as a test says."""

    name = "events"

    def __init__(self, fails: Callable[[list[Event]], bool]) -> None:
        self.runs = 0
        self._fails = fails

    def portfolio(self, seed: int) -> Iterator[Choices]:
        """Not asked for by the shrinker."""
        raise NotImplementedError

    def replay(self, outcome: Outcome) -> Replay:
        """Not asked for by the shrinker."""
        raise NotImplementedError

    def run(self, choices: Choices, *, traced: bool = False) -> Outcome:
        """Draw events until one of the kind 0, and note a decision of the network for each."""
        del traced
        self.runs += 1
        events = []
        while True:
            choices.begin_step()
            event = choices.below(8), choices.below(8), choices.below(8)
            choices.decide("hold", 4)
            if not event[0]:
                break
            events.append(event)
        return Outcome(Decisions.of(choices), "failed" if self._fails(events) else None)

    def attempt(self, data: Decisions) -> Decisions | None:
        """Run with these decisions; return those that were used if it failed."""
        outcome = self.run(self.choices(data))
        return outcome.data if outcome.failed else None

    def shrunk(self, events: list[Event]) -> list[Event]:
        """Shrink these events, among decisions of the network that do not matter."""
        start = self.attempt(Decisions(bytes(sum(events, ())), bytes([3] * len(events))))
        assert start is not None
        best, _ = shrink(start, self.attempt, advice=self)
        assert best.environment == b""
        steps = [tuple(step.ljust(3, b"\0")) for step, _ in best.steps()]
        return [(a, b, c) for a, b, c in steps]


NOISE: list[Event] = [(7, 5, 6), (5, 3, 1), (6, 6, 6), (5, 7, 2)]


def test_shrink_deletes_whole_steps() -> None:
    """Two events far apart remain, with their lowest values."""
    subject = Events(lambda events: any(a[0] == 2 for a in events) and events[-1][0] == 3)
    subject.costly = True

    assert subject.shrunk([*NOISE, (2, 4, 4), *NOISE, *NOISE, (3, 5, 5)]) == [(2, 0, 0), (3, 0, 0)]
    assert subject.runs < 150


def test_shrink_follows_an_index_that_a_step_renumbers() -> None:
    """The event 4 opens an entry, and 3 must name the last: without one 4 its index falls, too."""

    def fails(events: list[Event]) -> bool:
        opened = [event for event in events if event[0] == 4]
        return any(event[0] == 3 and event[1] == len(opened) > 0 for event in events)

    assert Events(fails).shrunk([(4, 0, 0), (4, 1, 1), (4, 0, 0), (3, 3, 0)]) == [
        (4, 0, 0),
        (3, 1, 0),
    ]


def test_shrink_lets_one_step_take_over_a_value_of_another() -> None:
    """Two events with one value between them become one."""

    def fails(events: list[Event]) -> bool:
        return any(event[0] == 2 and event[2] == 5 for event in events) or (
            [event[0] for event in events] == [2, 6] and events[1][2] == 5
        )

    assert Events(fails).shrunk([(2, 0, 0), (6, 0, 5)]) == [(2, 0, 5)]


def test_shrink_draws_steps_anew_where_no_change_leads_on() -> None:
    """Three events become one of another kind, which is neither lower nor any of them."""

    def fails(events: list[Event]) -> bool:
        kinds = [event[0] for event in events]
        return kinds in ([1, 2, 3], [2, 6], [7])

    assert [event[0] for event in Events(fails).shrunk([(1, 0, 0), (2, 0, 0), (3, 0, 0)])] == [7]


def test_shrink_keeps_the_decisions_of_each_step_with_it() -> None:
    """A late arrival during the last event stays there when the events before it go."""

    class Held(Events):
        def run(self, choices: Choices, *, traced: bool = False) -> Outcome:
            outcome = super().run(choices, traced=traced)
            steps = outcome.data.steps()
            late = [place for place, (draws, decided) in enumerate(steps) if any(decided)]
            failed = bool(late) and steps[late[-1]][0][:1] == b"\3"
            return Outcome(outcome.data, "failed" if failed else None)

    subject = Held(lambda _: False)
    start = Decisions(bytes(sum([*NOISE, (3, 1, 1)], ())), bytes([0, 0, 0, 0, 2]))
    used = subject.attempt(start)
    assert used is not None
    best, _ = shrink(used, subject.attempt, advice=subject)

    assert best == Decisions(b"\3", b"\1", ((0, 0),))


@pytest.mark.parametrize("costly", [False, True])
def test_shrink_leaves_out_what_costs_many_runs(*, costly: bool) -> None:
    """Where a run takes real time, two changes at once and steps drawn anew are not tried."""
    subject = Events(lambda events: [event[0] for event in events] in ([4, 5], [2]))
    subject.costly = costly
    kinds = [event[0] for event in subject.shrunk([(4, 0, 0), (5, 0, 0)])]

    assert kinds == ([4, 5] if costly else [2])


def test_decisions_are_put_together_from_their_steps() -> None:
    """Steps and decisions are two forms of one thing."""
    data = Decisions(b"abcdef", b"xyz", ((0, 0), (2, 1), (5, 1)))

    assert data.steps() == [(b"ab", b"x"), (b"cde", b""), (b"f", b"yz")]
    assert Decisions.joined(data.steps()) == data
    assert Decisions(b"abc").steps() == []
