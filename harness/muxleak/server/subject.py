"""Servers under generated connections: subjects of the search, and their settings."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from muxleak.checks.report import LeakError
from muxleak.search.program import signature
from muxleak.search.subject import Decisions, Outcome, Subject
from muxleak.server.given import GivenServer, NoServerError
from muxleak.server.messages import escaped
from muxleak.sim.choices import Choices
from muxleak.sim.errors import SimulationError
from muxleak.sim.replay import SERVER
from muxleak.sim.schedulers import TURNS, portfolio
from muxleak.sim.settings import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muxleak.checks.ignores import Ignore
    from muxleak.server.connection import UserClient
    from muxleak.server.events import ClientEvent, Plan
    from muxleak.server.given import Running
    from muxleak.server.sequence import EventSequence, Performed
    from muxleak.sim.replay import Replay

GRACE = 10.0
"""Seconds in which the objects of a connection that is over may still end."""
REAL_REPLAYS = 20
"""Times that a sequence is repeated on a real loop, at most."""
_CLEAN = Outcome()


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of the sequences of one check.

    Attributes:
        plan: the freedoms of a sequence.
        client: the client of the user; None for generated messages only.
        grace: seconds in which the objects of a connection that is over may still end.
        allowed: exceptions that handlers and callbacks may raise, beside `ConnectionError`.
        ignores: values of `muxleak.checks.ignores`.
        network: the freedoms and faults of the simulated network.
    """

    plan: Plan
    client: UserClient | None = None
    grace: float = GRACE
    allowed: tuple[type[BaseException], ...] = ()
    ignores: tuple[Ignore, ...] = ()
    network: Network = field(default_factory=Network)


class Performance(NamedTuple):
    """The results of one sequence.

    Attributes:
        error: the error, or None.
        steps: the events in words.
        trace: the hash of all events of a traced run; "" otherwise.
    """

    error: BaseException | None
    steps: tuple[str, ...]
    trace: str = ""


class ServerSubject(Subject[Outcome]):
    """A server under generated connections.

    Args:
        given: the server.
        settings: the settings of the sequences.

    Attributes:
        name: the name of the server, "module:qualified name".
        given: the server.
        settings: the settings of the sequences.
        is_real: True if sequences run on a real loop, in real time.
        target: the name of the loop and network; "" for the simulation.
        failed: the last failing outcome, before the search has ended with a finding.
        performed: the events of the last sequence that had an effect.
    """

    is_real = False
    target = ""

    def __init__(self, given: GivenServer, settings: ServerSettings) -> None:
        self.name, self.given, self.settings = given.name, given, settings
        self.failed: Outcome | None = None
        self._running: Running | None = None
        self.performed: list[Performed] = []

    @property
    def kind(self) -> str:
        """The kind of the server, once a sequence has run; see `Running`."""
        return self._running.kind if self._running is not None else ""

    @property
    def form(self) -> str:
        """The kind of value that told the server's address; see `Running`."""
        return self._running.form if self._running is not None else ""

    def guard(self) -> AbstractContextManager[None]:
        """Return a context manager in which sequences run."""
        return nullcontext()

    @abstractmethod
    def perform(self, choices: Choices, *, traced: bool) -> Performance:
        """Run one sequence.

        Args:
            choices: decide everything that is free.
            traced: True to compute the hash of all events.
        """

    def portfolio(self, seed: int) -> Iterator[Choices]:
        """Yield choices of the schedulers in turn; the first take the plain course."""
        return portfolio(seed, TURNS, wakeups=False)

    def run(self, choices: Choices, *, traced: bool = False) -> Outcome:
        """Run one sequence.

        Raises:
            SimulationError: the server does what cannot be simulated.
            NoServerError: the thing given as a server is none.
        """
        error, steps, trace = self.perform(choices, traced=traced)
        if error is None:
            return Outcome(steps=steps, trace=trace) if traced else _CLEAN
        if isinstance(error, SimulationError | NoServerError):
            raise error  # the fault of whoever has given the server, not of a sequence
        self.failed = Outcome(
            Decisions.of(choices),
            signature(error),
            (str(error) or type(error).__name__).splitlines()[0],
            steps,
            error.report.groups if isinstance(error, LeakError) else (),
            error,
            trace=trace,
        )
        return self.failed

    def performed_again(self, outcome: Outcome) -> list[Performed]:
        """Return the events of a sequence that had an effect, by running it again."""
        with self.guard():
            self.run(Choices(outcome.data.program, outcome.data.environment))
        return self.performed

    def note(self, running: Running, sequence: EventSequence) -> None:
        """Keep the facts of a sequence that runs now."""
        self.performed, self._running = sequence.performed, running

    def replay(self, outcome: Outcome) -> Replay:
        """Return the replay of a run."""
        found = outcome.recorded(SERVER, self.name)
        messages = tuple(escaped(each) for each in self.settings.plan.messages)
        return replace(found, messages=messages, target=self.target)

    def repeat(self, replay: Replay) -> Outcome:
        """Run a recorded sequence again; on a real loop until it fails, but not for ever.

        Raises:
            SimulationError: the server does what cannot be simulated.
            NoServerError: the thing given as a server is none.
        """
        outcome = _CLEAN
        with self.guard():
            for _ in range(REAL_REPLAYS if self.is_real else 1):
                outcome = super().repeat(replay)
                if outcome.failed:
                    break
        return outcome

    def normal(self, data: Decisions) -> Decisions:
        """Return the decisions with the simplest events of the same effect."""
        events, decided = self._events(data)
        return self._decisions(self.settings.plan.normal(events), decided)

    def cuts(self, data: Decisions) -> Iterator[Decisions]:
        """Yield decisions in which one message takes the place of another in all events."""
        # Two clients that send the same name must go on to send the same.
        events, decided = self._events(data)
        sent = sorted({each.message for each in events})
        for message in sent:
            for less in range(message):
                fewer = [
                    each._replace(message=less) if each.message == message else each
                    for each in events
                ]
                yield self._decisions(fewer, decided)

    def _events(self, data: Decisions) -> tuple[list[ClientEvent], list[bytes]]:
        """Return the events, and for each the decisions of the environment until the next."""
        events: list[ClientEvent] = []
        decided: list[bytes] = []
        for draws, environment in data.steps():
            decided.append(environment)
            event = self.settings.plan.draw_one(Choices(draws))
            if event is None:
                break
            events.append(event)
        return events, decided

    def _decisions(self, events: list[ClientEvent], decided: list[bytes]) -> Decisions:
        blocks = map(self.settings.plan.encode, events)
        return trimmed(Decisions.joined(zip_longest(blocks, decided, fillvalue=b"")))


def trimmed(data: Decisions) -> Decisions:
    """Return decisions without defaults at the end, as a run gives them back."""
    choices = Choices()
    choices.program, choices.environment = bytearray(data.program), bytearray(data.environment)
    choices.starts = list(data.starts)
    return Decisions.of(choices)
