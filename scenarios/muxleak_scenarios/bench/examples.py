"""Cost of one connection of a Hypothesis example, with drawing and running measured apart."""

# Hypothesis pays for every draw. The usual strategy, a list of steps each drawn by a strategy of
# its own, makes several draws for each step and one connection of each example. Ours draws one
# block of bytes of a fixed size, which the decoder turns into a script of many connections.
#
# Both sides get the same verbs and destinations and about the same number of steps for each
# connection, and run on the same simulated target with every property checked. The settings leave
# out all but generation: no database, no shrinking, no deadline.
#
# Drawing is the rest: the time of the whole call without the time inside the test function.

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from muxleak_scenarios.bench.measure import Beside, Comparison, in_turns
from muxleak_scenarios.sequence.decoder import SIZES
from muxleak_scenarios.sequence.steps import DESTINATIONS, HANDLERS, Sequence, Step
from muxleak_scenarios.sequence.strategies import sequences
from muxleak_scenarios.targets.run import run_sequence
from muxleak_vless import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable

    from muxleak_scenarios.bench.measure import BenchPlan, Rounds

STEPS = 156
"""Steps of a script, which make about 35 connections."""
LIST_STEPS = 4
"""Steps of a list, with open and close: as many as a connection of a script has."""
_STREAMS = st.integers(1, 3)
_GAPS = st.sampled_from((None, 0, 1, 2))


class Spent(NamedTuple):
    """Seconds of CPU for one connection.

    Attributes:
        drawing: seconds in Hypothesis.
        running: seconds in the run and its checks.
    """

    drawing: float
    running: float

    @property
    def both(self) -> float:
        """Seconds in all."""
        return self.drawing + self.running


class Drawn(NamedTuple):
    """Totals of a number of examples.

    Attributes:
        connections: number of connections.
        steps: number of steps.
        spent: cost of one connection.
    """

    connections: int
    steps: int
    spent: Spent


def lists() -> st.SearchStrategy[Sequence]:
    """Return a strategy for one connection: open, a list of drawn steps, close."""
    served = st.sampled_from((*HANDLERS, *DESTINATIONS))
    step = st.one_of(
        st.builds(_new, _STREAMS, served, st.sampled_from(SIZES[:3]), _GAPS),
        st.builds(_data, _STREAMS, st.sampled_from(SIZES[1:]), _GAPS),
        st.builds(_end, st.sampled_from(("end", "reset")), _STREAMS, _GAPS),
    )
    count = LIST_STEPS - 2
    return st.lists(step, min_size=count, max_size=count).map(_opened)


def drive(strategy: st.SearchStrategy[Sequence], examples: int) -> Drawn:
    """Let Hypothesis draw examples and run each.

    Args:
        strategy: draws a sequence.
        examples: number of examples.

    Returns:
        The totals, with the time for drawing apart from that for running.

    Raises:
        AssertionError: a property was violated.
    """
    connections = steps = 0
    running = 0.0

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(sequence: Sequence) -> None:
        nonlocal connections, steps, running
        began = time.process_time()
        outcome = run_sequence(sequence, Lifecycle())
        running += time.process_time() - began
        connections += outcome.connections
        steps += len(sequence)
        if outcome.violations:
            raise AssertionError(f"expected a clean run, got {outcome.violations}: {sequence}")

    began = time.process_time()
    run()
    drawing = time.process_time() - began - running
    return Drawn(connections, steps, Spent(drawing / connections, running / connections))


def measure(plan: BenchPlan) -> list[Comparison]:
    """Compare a connection of a script with one that is an example of its own."""
    found = in_turns(
        {
            "ours": lambda: drive(sequences(STEPS), plan.size(40)).spent,
            "lists": lambda: drive(lists(), plan.size(200)).spent,
        },
        plan,
    )

    def compare(what: str, of: Callable[[Spent], float], goal: float | None = None) -> Comparison:
        ours, theirs = (_rounds(found[name], of) for name in ("ours", "lists"))
        return Comparison(what, ours, (Beside("a drawn list of steps each", theirs, goal=goal),))

    return [
        compare("a connection of a script, drawn and run", lambda spent: spent.both, goal=20),
        compare("of that, drawing", lambda spent: spent.drawing),
        compare("of that, running and checking", lambda spent: spent.running),
    ]


def _new(stream: int, what: str, size: int, gap: int | None) -> Step:
    return Step("new", "a", stream, what, size, gap)


def _data(stream: int, size: int, gap: int | None) -> Step:
    return Step("data", "a", stream, "", size, gap)


def _end(verb: str, stream: int, gap: int | None) -> Step:
    return Step(verb, "a", stream, "", 0, gap)


def _opened(steps: list[Step]) -> Sequence:
    return Sequence((Step("open", "a"), *steps, Step("close", "a")))


def _rounds(spent: tuple[Spent, ...], of: Callable[[Spent], float]) -> Rounds:
    return tuple(of(each) for each in spent)
