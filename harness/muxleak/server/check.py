"""`check_server`: searches for a sequence of connections at which a server leaks, and raises it."""

# A plain function, since it must run under any test runner. A search runs loops of its own, and a
# thread runs one loop at a time: called from a coroutine it works in another thread, and its caller
# waits for it as for any function that computes.
#
# The error that is raised is the one of the shortest sequence that was found. It carries the
# sequence in words and the way to repeat it as a note, which test runners print below the message.

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from muxleak.checks.ignores import valid_ignores
from muxleak.checks.report import LeakError
from muxleak.introspect.sites import is_internal
from muxleak.search.finding import Finding
from muxleak.search.program import ProgramSubject
from muxleak.search.search import search
from muxleak.server.counts import CountError, counting
from muxleak.server.events import CLIENTS, EVENTS, IDLE, Plan, events_of
from muxleak.server.given import address_of, recognise
from muxleak.server.messages import client_input, unescaped
from muxleak.server.real import REAL_GRACE, REAL_IDLE, RealServerSubject
from muxleak.server.running import IMPOSSIBLE, RunningServerSubject
from muxleak.server.simulated import SimulatedServerSubject
from muxleak.server.subject import GRACE, ServerSettings
from muxleak.sim.errors import SimulationError
from muxleak.sim.replay import SERVER, Replay
from muxleak.sim.settings import Network
from muxleak.sim.simulate import settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from muxleak.checks.ignores import Ignore
    from muxleak.search.search import Progress
    from muxleak.search.subject import Outcome, Subject
    from muxleak.server.subject import ServerSubject

SEQUENCES = 1_000
"""Sequences of a check on the simulation, unless it is told otherwise."""
SIMULATED = "simulated"
TARGETS = (SIMULATED, "tcp", "uvloop")
"""Names of the loops and networks on which sequences run."""
ONCE = "once"
"""The reason why the search for a finding ended that did not fail again."""
_REAL_SEQUENCES = 50
_GRACES = (15.0, 30.0, 60.0, 120.0, 300.0)  # seconds, of virtual time
_SHRINKING = 10.0  # seconds, on a real loop


class ServerOptions(TypedDict, total=False):
    """Keyword arguments of `check_server` that say how a sequence runs."""

    messages: Any
    count: Any
    target: str
    clients: int
    events: Iterable[str] | None
    network: Network | None
    grace: float
    allowed: type[BaseException] | tuple[type[BaseException], ...]
    ignore: Ignore | Iterable[Ignore]


def check_server(
    server: Any,
    *,
    sequences: int | None = None,
    seed: int = 0,
    replay: Path | str = "",
    **options: Unpack[ServerOptions],
) -> None:
    r"""Run a server under generated sequences of connections; raise if something leaks.

    Up to four clients connect, send the messages whole, cut, joined and in part, close, half-close,
    reset, stop reading, wait, and see the server shut down, at moments that the search chooses.
    After every close of a connection, while the other clients stay, nothing may be left of it; at
    the end nothing may be left of the server. The shortest failing sequence is raised. The server's
    output and logging are dropped; a replay shows them.

    ::

        def test_chat_leaks_nothing():
            check_server(chat.start, messages=[b"JOIN room\n", b"hello\n", b"/quit\n"])

    Args:
        server: an async function ``(reader, writer)``; a class of protocols or a function that
            returns one; an async function that starts and returns an `asyncio.Server`, with or
            without ``host`` and ``port``, or never returns, such as by ``serve_forever``; or a
            function that returns an async context manager which yields an address. It is started
            anew for each sequence.
        sequences: number of sequences, at most; by default 1,000 simulated or 50 real ones.
        seed: of all chance; the same seed makes the same sequences.
        replay: the line of a sequence, or the path of its file, to run this one alone.
        **options: how a sequence runs:

            - ``messages``: bytes that clients send, a Hypothesis strategy of such, or an async
              function that is a client: its argument has the attributes ``reader`` and ``writer``;
            - ``count``: the way to count a server that runs already: its `Monitor`, the URL of its
              debug endpoint, the id of its process, or a list of these;
            - ``target``: "simulated" for virtual time and a network in memory; "tcp" or "uvloop"
              for a real loop and loopback, for servers that cannot be simulated;
            - ``clients``: number of clients, 1 to 4;
            - ``events``: names of the events that may occur, of `muxleak.server.EVENTS`;
            - ``network``: the freedoms and faults of the simulated network; by default it cuts and
              delays bytes, and injects no fault, since clients reset and half-close themselves;
            - ``grace``: seconds in which the objects of a closed connection may still end, by
              default 10 simulated or 0.5 real ones;
            - ``allowed``: exceptions that handlers and callbacks may raise, beside
              `ConnectionError`;
            - ``ignore``: values of `ignore_created_by` and its like.

    Raises:
        LeakError: something outlives its connection, or the server.
        BaseException: an exception that a handler or callback raised, as asyncio reports it.
        SimulationError: the server does what cannot be simulated.
        OSError: a server that runs already cannot be reached or counted.
        RuntimeError: it runs on the loop that waits for this call.
        TypeError: the server, or another argument, is none of the above.
        ValueError: an argument is out of its range, or the replay is no line and no file of one.
    """
    __tracebackhide__ = True
    subject = server_subject(server, seed=seed, **options)
    if sequences is not None and sequences < 1:
        raise ValueError(f"expected at least 1 sequence, got {sequences!r}")

    def check() -> BaseException | None:
        if replay:
            outcome = subject.repeat(Replay.of(replay))
            if outcome.error is not None:
                head = f"this sequence of {subject.name} fails:"
                _describe(outcome.error, head, outcome, str(replay))
            return outcome.error
        return _searched(subject, sequences, seed)

    error = _beside_a_running_loop(check)
    if error is not None:
        raise error


def server_subject(
    server: Any, *, seed: int = 0, **options: Unpack[ServerOptions]
) -> ServerSubject:
    """Return a server as a subject of the search.

    Args:
        server: as for `check_server`.
        seed: of the messages that are drawn from a strategy.
        **options: as for `check_server`.

    Raises:
        TypeError, ValueError: an argument is wrong; see `check_server`.
    """
    if unknown := sorted(set(options) - set(ServerOptions.__annotations__)):
        known = ", ".join(["sequences", "seed", "replay", *ServerOptions.__annotations__])
        raise TypeError(f"unknown arguments {', '.join(unknown)}; expected some of {known}")
    given = recognise(server)
    runs = given.kind == "running"
    if not runs and "count" in options:
        raise TypeError('count= is for a server that runs already: "127.0.0.1:8000"')
    target = options.get("target", "tcp" if runs else SIMULATED)
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}, expected one of {', '.join(TARGETS)}")
    if runs and target != "tcp":
        raise ValueError(f'expected target="tcp" for a server that runs already, got {target!r}')
    settings = _settings(options, seed, target, refused=IMPOSSIBLE if runs else frozenset())
    if runs:
        ways = counting(options.get("count"), settings.ignores)
        return RunningServerSubject(given, settings, address_of(server, given.name), ways)
    if target == SIMULATED:
        return SimulatedServerSubject(given, settings)
    return RealServerSubject(given, settings, _uvloop() if target == "uvloop" else None)


def _settings(
    options: ServerOptions, seed: int, target: str, *, refused: frozenset[str]
) -> ServerSettings:
    """Return the settings that options mean, without the events that are refused."""
    clients = options.get("clients", len(CLIENTS))
    if not 1 <= clients <= len(CLIENTS):
        raise ValueError(f"expected 1 to {len(CLIENTS)} clients, got {clients!r}")
    grace = options.get("grace", GRACE if target == SIMULATED else REAL_GRACE)
    if not grace >= 0:
        raise ValueError(f"expected a grace of 0 s or more, got {grace!r}")
    sent = client_input(options.get("messages", ()), seed)
    wanted = options.get("events")
    names = EVENTS if wanted is None else tuple(wanted)
    if wanted is not None and (none := sorted(refused.intersection(names))):
        raise ValueError(f"a server that runs already has no event {' or '.join(none)}")
    events = events_of(names, sent.messages, client=sent.client is not None)
    allowed = options.get("allowed", ())
    return ServerSettings(
        Plan(
            sent.messages,
            clients,
            tuple(each for each in events if each not in refused),
            IDLE if target == SIMULATED else REAL_IDLE,
        ),
        sent.client,
        grace,
        allowed if isinstance(allowed, tuple) else (allowed,),
        valid_ignores(options.get("ignore", ())),
        options.get("network") or Network(),
    )


def recorded_subject(found: Replay, thing: Any) -> Subject[Outcome]:
    """Return the program or server of a replay as a subject that can repeat it.

    Args:
        found: the replay.
        thing: the program or server.

    Raises:
        TypeError, ValueError, ImportError: it is no server, or the replay's messages or target are
            none.
    """
    if found.kind != SERVER:
        return ProgramSubject(thing, settings_of(thing, {}))
    messages = [unescaped(each) for each in found.messages]
    subject = server_subject(thing, messages=messages, target=found.target or SIMULATED)
    # The function may know itself under another name, which the import path does not lead to.
    subject.name = found.name
    return subject


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        return import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        text = 'target="uvloop" needs uvloop, which is not installed: pip install uvloop'
        raise ImportError(text, name="uvloop") from None


def search_server(
    subject: ServerSubject,
    *,
    sequences: int | None = None,
    seed: int = 0,
    progress: Callable[[Progress], object] = lambda _: False,
) -> Finding[Outcome] | None:
    """Search a server for a failing sequence, and shrink it.

    Args:
        subject: of `server_subject`.
        sequences: number of sequences, at most.
        seed: of all chance.
        progress: called after each sequence; a true value ends the search.

    Returns:
        The finding; None if no sequence failed. On a real loop it may be one that did not fail
        again, whose attribute `ended` is `ONCE`.

    Raises:
        SimulationError: the server does what cannot be simulated.
        OSError: a server that runs already cannot be reached or counted.
        TypeError: the thing given as a server has returned something else.
        RuntimeError: the failing sequence cannot be repeated in the simulation.
    """
    if sequences is None:
        sequences = _REAL_SEQUENCES if subject.is_real else SEQUENCES
    limits = _Limits(subject, progress)
    with subject.guard(), _silence():
        try:
            return search(subject, examples=sequences, seed=seed, progress=limits)
        except SimulationError:
            raise  # a RuntimeError, too, but not of a sequence that cannot be repeated
        except (RuntimeError, CountError) as error:
            failed = subject.failed
            if subject.is_real and failed is not None:
                # The system decides when bytes arrive, and decides anew the next time.
                replay = subject.replay(failed)
                return Finding(subject.name, failed, replay, limits.examples, 0, 0, ended=ONCE)
            if isinstance(error, CountError):
                raise
            error.add_note(
                "a server may keep state from one sequence to the next: give a function that makes "
                "everything anew, such as one that starts the server and returns it"
            )
            raise


@contextmanager
def _silence() -> Iterator[None]:
    """Drop whatever the server prints and logs: it would do so a thousand times."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):  # noqa: PTH123 - a device
            yield
    finally:
        logging.disable(before)


class _Limits:
    """Ends the shrinking of a sequence on a real loop in time.

    Attributes:
        examples: number of the sequence that runs, or that has failed.
    """

    def __init__(self, subject: ServerSubject, progress: Callable[[Progress], object]) -> None:
        self._real, self._progress = subject.is_real, progress
        self._until = 0.0
        self.examples = 1

    def __call__(self, now: Progress) -> bool:
        """Return True to end the search."""
        self.examples = now.examples + (now.best is None)
        if self._real and now.best is not None:
            self._until = self._until or monotonic() + _SHRINKING
            if monotonic() > self._until:
                return True
        return bool(self._progress(now))


def _searched(subject: ServerSubject, sequences: int | None, seed: int) -> BaseException | None:
    found = search_server(subject, sequences=sequences, seed=seed)
    if found is None:
        return None
    error, grace = _explained(found), _enough(subject, found)
    if grace:
        error.add_note(f"nothing is left after {grace:g} s: grace={grace:g} allows so much time")
    return error


def _enough(subject: ServerSubject, found: Finding[Outcome]) -> float:
    """Return the seconds within which all that has leaked ends by itself; 0 if it does not."""
    if not isinstance(subject, SimulatedServerSubject) or not isinstance(found.error, LeakError):
        return 0
    for grace in (each for each in _GRACES if each > subject.settings.grace):
        settings = replace(subject.settings, grace=grace)
        with _silence():
            again = SimulatedServerSubject(subject.given, settings)
            outcome = again.repeat(found.replay)
        if not outcome.failed and not again.given_up:
            return grace
    return 0


def _explained(found: Finding[Outcome]) -> BaseException:
    at = f"in sequence {found.examples:,} of {found.subject}"
    head = f"found {at}, shortened to:" if found.steps else f"found {at}, before any event"
    if found.ended == ONCE:
        head = f"found in {found.subject}, and not again, in these or more events:"
    _describe(found.error, head, found.outcome, found.replay.line)
    return found.error


def _describe(error: BaseException, head: str, outcome: Outcome, line: str) -> None:
    """Add the sequence in words to an error, and the way to repeat it."""
    lines = [head, *(f"  {step}" for step in outcome.steps)]
    if any(" !" in step for step in outcome.steps):
        lines.append("  (!1: the next event follows after 1 iteration of the loop)")
    error.add_note("\n".join([*lines, f'again: check_server(..., replay="{line}")']))
    # The frames of the search say nothing about the server.
    trace = error.__traceback__
    while trace is not None and is_internal(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    error.__traceback__ = trace


def _beside_a_running_loop(check: Callable[[], BaseException | None]) -> BaseException | None:
    """Call a function, in another thread if a loop runs in this one."""
    if asyncio._get_running_loop() is None:  # noqa: SLF001 - documented, despite its name
        return check()
    results: list[BaseException | None] = []

    def call() -> None:
        try:
            results.append(check())
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the caller
            results.append(error)

    thread = threading.Thread(target=call, name="check_server")
    thread.start()
    thread.join()
    return results[0]
