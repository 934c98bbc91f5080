"""Performs the events of a sequence, and checks the server after every close of a connection."""

# The same code drives a simulated server and one on a real loop; `ServerTarget` lists everything in
# which they differ.
#
# A connection is over when its client has closed or reset it, or when the server has closed its
# side. After a half-close it is not over: some servers take it for the end, some answer first. As
# soon as all has settled, nothing that belongs to a connection that is over may be alive, while the
# other clients stay. What is left gets `grace` seconds to end by itself.
#
# Not everything that a connection has made and that outlives it is a leak. The first connection may
# start a service for all, such as a broadcaster; a pool keeps a few connections to a database; a
# cache keeps a timer for each entry. These rules tell a leak from them. The first that applies
# decides:
#
#   1. An exception that nobody retrieves, or a task that was destroyed, is a leak.
#   2. The server's own end of the connection is a leak.
#   3. A task is a leak if one of its suspended functions was given the connection: its streams,
#      transport or protocol are an argument, or a variable of an enclosing function. So a handler
#      is, and a task that waits in a read or drain of the connection. A local variable does not
#      count: after `for writer in writers` it names the last writer, whoever that was.
#   4. Any other object is a suspect. All events so far are repeated up to four times by other
#      clients, with the same decisions, while the present clients stay. Objects of one kind, name
#      and creation site are a leak if their number rises with every repetition, and by at least one
#      for each; the grace is given before they are counted for the last time. Otherwise they are a
#      service, a pool or a cache of at most four objects, or a cache of as many as there are names.
#
# The number decides in rule 4, not the objects: a timer that is set anew is another object, and no
# growth. The repetitions end as soon as no number rises, so a service costs one. The number found
# then is the level of these objects. They are suspects again once more of them are alive.
#
# Some leaks do not repeat while the present clients stay: one of them may be the only leader. So
# suspects that are alive when all clients have left are repeated once more, on their own.
#
# Once the server has stopped, all that a context manager has started must have ended, services
# included. A handler, a protocol and a starter have no function that could end a service of the
# connections, so such a service may stay.

from __future__ import annotations

import asyncio
import re
from collections import Counter
from inspect import CO_VARARGS, CO_VARKEYWORDS
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from muxleak.checks.report import LeakError, LeakReport
from muxleak.introspect.waiting import suspended
from muxleak.ledger.counters import TaskRecord
from muxleak.server.events import CLIENTS, OF_CLIENT, ClientEvent, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

    from muxleak.server.connection import GeneratedConnection, UserClient
    from muxleak.server.events import Plan
    from muxleak.server.given import Running

_UVLOOP_LOST = "the handler is closed"
_ERRORS = frozenset({"error", "destroyed"})
_ENDS = (
    asyncio.BaseTransport,
    asyncio.BaseProtocol,
    asyncio.StreamReader,
    asyncio.StreamWriter,
)
_REPETITIONS = 4
_WAYS_OUT = {
    "context": "end it after the yield of the context manager, or exempt it by ignore=",
    "starter": "a starter has no end of its own: give a function with @asynccontextmanager that "
    "ends it after its yield, or exempt it by ignore=",
}
_Key = tuple[str, str, Any]
_Left = list[tuple["GeneratedConnection", Any]]


class ServerTarget(Protocol):
    """The loop and network on which a sequence runs.

    Attributes:
        grace: seconds in which objects of a connection that is over may still end.
    """

    grace: float

    async def connect(self, address: tuple[str, int], title: str) -> GeneratedConnection | None:
        """Connect a client; None if the server refuses."""

    def is_over(self, connection: GeneratedConnection) -> bool:
        """Return True if the client or the server has closed the connection."""

    def reset(self, connection: GeneratedConnection) -> None:
        """Let the client reset the connection."""

    def stall(self, connection: GeneratedConnection) -> None:
        """Let the client stop reading."""

    def resume(self, connection: GeneratedConnection) -> None:
        """Let the client read again."""

    def handler(self, connection: GeneratedConnection) -> asyncio.Task[Any] | None:
        """Return the task in which the server's handler runs, if there is one."""

    def left(self, connection: GeneratedConnection) -> list[Any]:
        """Return records of the live objects that the server's side of a connection has made."""

    def everything(self) -> list[Any]:
        """Return records of all live objects but for the running task."""

    def retrieve_failures(self) -> list[BaseException]:
        """Retrieve the exceptions of failed tasks that nobody has retrieved."""

    def step(self, text: str) -> int:
        """Announce an event, as reports print it; return its number."""

    def repeat(self) -> None:
        """Make the decisions of the environment from now on as they were from the beginning."""

    def go_on(self, step: int) -> None:
        """Decide anew after a repetition, and forget the events from this number on."""

    async def settle(self) -> None:
        """Wait until everything has settled."""

    async def await_answers(self) -> None:
        """Wait until everything has settled, and a little longer, if the server takes its time."""

    async def give_time(self, left: Callable[[], Sequence[Any]]) -> None:
        """Wait until nothing is left, at most for the grace.

        Args:
            left: returns the objects, or their records, that have not ended.
        """

    async def turn(self, iterations: int) -> None:
        """Let the loop run for so many iterations."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""


class Performed(NamedTuple):
    """An event that had an effect.

    Attributes:
        event: the event.
        connects: True if it has connected its client first.
    """

    event: ClientEvent
    connects: bool


class ReportedErrors:
    """Collects the exceptions that handlers and callbacks raise, as the loop reports them."""

    def __init__(self, allowed: tuple[type[BaseException], ...]) -> None:
        # Most servers raise the first when a client resets; a cancelled handler raises the other.
        self._allowed: tuple[type[BaseException], ...] = (
            ConnectionError,
            asyncio.CancelledError,
            *allowed,
        )
        self._found: list[BaseException] = []

    def __call__(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note a report; the exception handler of the loop."""
        self.note(context.get("exception"))

    def note(self, error: object) -> None:
        """Note an exception that is not allowed."""
        if not isinstance(error, BaseException) or isinstance(error, self._allowed):
            return
        # A write to a connection that is lost; asyncio's own loops ignore it.
        if isinstance(error, RuntimeError) and str(error).endswith(_UVLOOP_LOST):
            return
        self._found.append(error)

    def counted(self, records: Iterable[Any]) -> list[Any]:
        """Return records without those of exceptions, never retrieved, that are allowed."""
        return [each for each in records if each.kind != "error" or not self._allows(each.state())]

    def _allows(self, text: str) -> bool:
        # A record has the name of the exception's class, not the class.
        found = re.search(r"never retrieved[^:]*: (\w+)", text)
        return found is not None and found[1] in {
            name for each in self._allowed for name in _names(each)
        }

    def check(self) -> None:
        """Raise the first exception that was reported."""
        if self._found:
            raise self._found[0]


class EventSequence:
    """One sequence of events at one server.

    Args:
        target: the loop and network.
        running: the server.
        plan: the freedoms of the sequence.
        client: the client of the user, if there is one.
        errors: the reports of the loop.

    Attributes:
        performed: the events that had an effect, without those of repetitions.
        repetition: the number of the repetition that runs; 0 for none.
    """

    def __init__(
        self,
        target: ServerTarget,
        running: Running,
        plan: Plan,
        client: UserClient | None,
        errors: ReportedErrors,
    ) -> None:
        self.target, self.running, self.plan = target, running, plan
        self.client, self.errors = client, errors
        self._slots: list[GeneratedConnection | None] = [None] * plan.clients
        self._made = [0] * plan.clients
        self._checked: list[GeneratedConnection] = []
        self._suspects: dict[int, Any] = {}
        self._levels: dict[_Key, int] = {}  # numbers that repetitions have shown to be no leak
        self._beside: set[_Key] = set()  # of these, where clients stayed during the repetitions
        self._history: list[ClientEvent] = []
        self.repetition = 0
        self.performed: list[Performed] = []
        self._acts: dict[str, Callable[[GeneratedConnection, ClientEvent], bool]] = {
            "close": self._close,
            "reset": self._reset,
            "half-close": self._half_close,
            "stall": self._stall,
            "resume": self._resume,
            "cancel": self._cancel,
            "client": self._run_client,
            "cut": self._run_client,
        }

    async def run(self, events: Iterable[ClientEvent]) -> None:
        """Start the server, perform the events, stop it, and check all the time.

        Raises:
            LeakError: something outlives its connection, or the server.
            BaseException: an exception that a handler or callback has raised.
        """
        await self.running.start()
        for event in events:
            await self._perform(event)
        # A server that is about to answer may take its time before the clients close.
        await self.target.await_answers()
        await self._check()
        await self._close_all()
        if self._beside:
            numbers = _numbers(self._left())
            if alone := {key: n for key, n in numbers.items() if key in self._beside}:
                await self._repeat(alone)
        await self._stop()

    async def _close_all(self) -> None:
        for slot, connection in enumerate(self._slots):
            if connection is not None and not connection.ended:
                if not self.repetition:
                    self.target.step(f"{CLIENTS[slot]} closes, at the end")
                await self._perform(ClientEvent("close", slot, 0, 0, 0), silent=True)

    async def _repeat(self, before: dict[_Key, int]) -> None:
        """Repeat all events so far by other clients, while the present ones stay; see rule 4.

        Args:
            before: the numbers of the suspects.

        Raises:
            LeakError: a number has risen with every repetition.
        """
        if self.running.stopped and not self.running.can_restart:
            return
        history, slots = list(self._history), self._slots
        mark = self.target.step("the same events once more, by other clients")
        rising, low = set(before), before
        for self.repetition in range(1, _REPETITIONS + 1):
            await self._perform_again(history)
            now = _numbers(self._left())
            rising = {key for key in rising if now[key] > low[key]}
            if not rising:
                break
            low = now
        left = await self._judged()
        after = _numbers(left)
        if leaks := {key for key in rising if after[key] >= before[key] + _REPETITIONS}:
            self.target.go_on(mark)
            self.target.step(f"the same events {_REPETITIONS} times more, by other clients")
            raise LeakError(_grown(left, {key: (before[key], after[key]) for key in leaks}))
        self._levels.update({key: after[key] for key in before})
        if any(each is not None and not each.ended for each in slots):
            self._beside.update(before)
        else:
            self._beside.difference_update(before)
        self.repetition, self._slots = 0, slots
        self.target.go_on(mark)

    async def _perform_again(self, history: Iterable[ClientEvent]) -> None:
        self._slots = [None] * self.plan.clients
        self.target.repeat()
        restart = self.running.stopped
        if restart:
            await self._ended()
            await self.running.start()
        for event in history:
            await self._perform(event, silent=True)
        # As at the end of the first time: a server that is about to answer may take its time.
        await self.target.await_answers()
        await self._close_all()
        if restart:
            self.running.stop()

    async def _perform(self, event: ClientEvent, *, silent: bool = False) -> None:
        """Perform an event, wait as it says, and check."""
        if not self.repetition:
            self._history.append(event)
        await self._begin(event, silent=silent or self.repetition > 0)
        if event.settles:
            await self.target.settle()
            await self._check()
        else:
            await self.target.turn(event.iterations)
            self.errors.check()

    async def _begin(self, event: ClientEvent, *, silent: bool) -> None:
        if event.what == "idle":
            self._announce(event, silent=silent)
            self._note(event)
            await self.target.sleep(event.seconds(self.plan))
        elif event.what == "shutdown":
            if not self.running.stopped:
                self._announce(event, silent=silent)
                self._note(event)
                self.running.stop()
                for each in filter(None, self._slots):
                    each.disturb()
        else:
            await self._begin_of_client(event, silent=silent)

    async def _begin_of_client(self, event: ClientEvent, *, silent: bool) -> None:
        """Begin an event of a client, which connects first if it has no connection."""
        connection = self._slots[event.slot]
        connects = connection is None or connection.ended
        if connects:
            self._made[event.slot] += 1
            title = f"client {CLIENTS[event.slot]}"
            if self.repetition:
                title += f" of repetition {self.repetition}"
            elif self._made[event.slot] > 1:
                title += f", connection {self._made[event.slot]}"
            connection = await self.target.connect(self.running.address, title)
            self._slots[event.slot] = connection
            if connection is None:
                return
            connection.repetition = self.repetition
            self._checked.append(connection)
        if connection is None:
            return
        done = await self._act(connection, event)
        if done or connects:
            # A new connection has no handler yet that could be cancelled, for instance.
            effect = event if done else event._replace(what="connect")
            self._announce(effect, connects=connects, silent=silent)
            self._note(effect, connects=connects)

    def _note(self, event: ClientEvent, *, connects: bool = False) -> None:
        if not self.repetition:
            self.performed.append(Performed(event, connects))

    async def _act(self, connection: GeneratedConnection, event: ClientEvent) -> bool:
        """Perform an event on an open connection; return False if it means nothing now."""
        act = self._acts.get(event.what)
        if act is not None:
            done = act(connection, event)
            if done and event.what not in OF_CLIENT:
                connection.disturb()
            return done
        if event.what == "connect" or connection.half_closed:
            return False
        connection.disturb()
        first, *rest = self.plan.pieces(event)
        connection.send(first)
        for piece in rest:
            await self.target.settle()
            connection.send(piece)
        return True

    def _close(self, connection: GeneratedConnection, _event: ClientEvent) -> bool:
        connection.transport.close()
        return True

    def _reset(self, connection: GeneratedConnection, _event: ClientEvent) -> bool:
        self.target.reset(connection)
        return True

    def _half_close(self, connection: GeneratedConnection, _event: ClientEvent) -> bool:
        return connection.half_close()

    def _stall(self, connection: GeneratedConnection, _event: ClientEvent) -> bool:
        if connection.stalled or connection.ended:
            return False
        connection.stalled = True
        self.target.stall(connection)
        return True

    def _resume(self, connection: GeneratedConnection, _event: ClientEvent) -> bool:
        if not connection.stalled or connection.ended:
            return False
        connection.stalled = False
        self.target.resume(connection)
        return True

    def _cancel(self, connection: GeneratedConnection, _event: ClientEvent) -> bool:
        task = self.target.handler(connection)
        if task is None or not task.cancel():
            return False
        # From 3.13 on asyncio does so itself; here a run is the same on every Python.
        task.add_done_callback(lambda task: task.cancelled() and connection.far.close())
        return True

    def _run_client(self, connection: GeneratedConnection, event: ClientEvent) -> bool:
        if self.client is None or any(not each.done() for each in connection.tasks):
            return False
        connection.run(self.client, event.cut if event.what == "cut" else 0)
        return True

    def _announce(
        self, event: ClientEvent, *, connects: bool = False, silent: bool = False
    ) -> None:
        if not silent:
            text = in_words(event, self.plan, connects=connects)
            self.target.step(text if event.settles else f"{text} !{event.iterations}")

    async def _stop(self) -> None:
        """Stop the server, and check that nothing of it is left."""
        if not self.running.stopped:
            self.running.stop()
        await self._ended()
        self.errors.check()

        def left() -> list[Any]:
            if self.running.kind == "main":
                return []  # the program has ended, and `asyncio.run` cancels its other tasks
            found = self.errors.counted(self.target.everything())
            if self.running.kind == "context":
                return found
            numbers = Counter(map(_key, found))
            return [
                each
                for each in found
                if id(each.thing()) not in self._suspects
                and numbers[_key(each)] > self._levels.get(_key(each), 0)
            ]

        if left():
            await self.target.give_time(left)
        if found := left():
            report = LeakReport.of(found).noting("alive after the server has stopped")
            if advice := _WAYS_OUT.get(self.running.kind):
                report = report.noting(advice)
            raise LeakError(report)
        for error in self.target.retrieve_failures():
            self.errors.note(error)
        self.errors.check()

    async def _ended(self) -> None:
        await self.target.settle()
        if self.running.ending:
            await self.target.give_time(lambda: [self.running] if self.running.ending else [])
        if self.running.ending:
            report = LeakReport.of(self.target.everything())
            raise LeakError(
                report.noting(f"the server has not stopped within {self.target.grace:g} s")
            )
        self.running.result()

    async def _check(self) -> None:
        """Check every connection that is over, once everything has settled."""
        self.errors.check()
        if self.repetition:
            return  # it is checked at its end
        left = await self._judged()
        if not left:
            return
        numbers = _numbers(left)
        if new := {key: n for key, n in numbers.items() if n > self._levels.get(key, 0)}:
            await self._repeat(new)

    async def _judged(self) -> _Left:
        """Return the objects of connections that are over, once none of them is a certain leak."""
        left = self._left()
        if any(id(record.thing()) not in self._suspects for _, record in left):
            await self.target.give_time(self._left_records)
            self.errors.check()
            left = self._left()
            self._judge(left)
        return left

    def _left_records(self) -> list[Any]:
        return [record for _, record in self._left()]

    def _left(self) -> _Left:
        found: _Left = []
        for connection in list(self._checked):
            if self.target.is_over(connection):
                for task in connection.tasks:
                    if task.done() and not task.cancelled():
                        task.result()
                records = self.errors.counted(self.target.left(connection))
                found += [(connection, record) for record in records]
                if not records:
                    # Nothing that it made is alive, so nothing can be made any more.
                    self._checked.remove(connection)
        return found

    def _judge(self, left: _Left) -> None:
        """Raise if something is a leak by rule 1, 2 or 3; else note the suspects."""
        for connection, _ in left:
            if connection.scope is not None:
                connection.scope.name = connection.title
        certain = [
            record.kind in _ERRORS or _is_of(record, connection) for connection, record in left
        ]
        if any(certain):
            # Other new objects may be of the same leak; suspects from before are services.
            reported = [
                record
                for (_, record), is_leak in zip(left, certain, strict=True)
                if is_leak or id(record.thing()) not in self._suspects
            ]
            raise LeakError(LeakReport.of(reported))
        for _, record in left:
            # The object is kept, so that no other one gets its id.
            self._suspects[id(record.thing())] = record.thing()


def _names(kind: type[BaseException]) -> Iterator[str]:
    """Yield the names of a class and of all classes below it."""
    yield kind.__name__
    for each in kind.__subclasses__():
        yield from _names(each)


def _key(record: Any) -> _Key:
    return record.kind, record.name, record.site


def _numbers(left: _Left) -> Counter[_Key]:
    """Return the number of objects that are alive, by key."""
    return Counter(_key(record) for _, record in left)


def _grown(left: _Left, leaks: dict[_Key, tuple[int, int]]) -> LeakReport:
    """Return the report of objects whose number has risen with every repetition.

    Args:
        left: all that connections have left.
        leaks: the numbers of the leaks, before the repetitions and after them.
    """
    found = []
    for key in leaks:
        of_key = [each for each in left if _key(each[1]) == key]
        # Those of the repetitions say nothing more, and would read as another leak.
        found += [each for each in of_key if not each[0].repetition] or of_key

    def notes(first: Sequence[Any]) -> list[tuple[str]]:
        numbers = [leaks[_key(each)] for each in first]
        return [(f"{n} alive, and {m} after {_REPETITIONS} repetitions",) for n, m in numbers]

    return LeakReport.of([record for _, record in found], diagnose=notes)


def _is_of(record: Any, connection: GeneratedConnection) -> bool:
    """Return True if a record is of the connection's own end, or of a task that works for it."""
    if connection.far is None:
        return False
    if record.thing() is connection.far:
        return True
    if not isinstance(record, TaskRecord):
        return False
    return any(_leads_to(_given(frame), connection.far) for frame in suspended(record.task))


def _given(frame: FrameType) -> Iterator[Any]:
    """Yield the values that a function was given: arguments, and variables of those around it."""
    code = frame.f_code
    names = code.co_argcount + code.co_kwonlyargcount
    names += bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
    values = frame.f_locals
    for name in (*code.co_varnames[:names], *code.co_freevars):
        yield values.get(name)


def _leads_to(values: Iterable[Any], transport: Any) -> bool:
    """Return True if a value is this transport, or a stream or protocol on it."""
    for value in values:
        if isinstance(value, _ENDS):
            kept = vars(value) if hasattr(value, "__dict__") else {}
            if value is transport or any(each is transport for each in kept.values()):
                return True
    return False
