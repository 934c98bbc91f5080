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
# start a service for all: a broadcaster, a reaper, a connection to a database. Such an object is
# told from a leak by these rules, the first that applies:
#
#   1. an exception that nobody retrieves, or a task that was destroyed, is an error in any case
#   2. the server's own end of the connection is a leak
#   3. a task is a leak if a frame of it refers to the connection's streams, transport or protocol
#   4. objects made at one place that two connections have left are a leak: they grow with them
#   5. other objects are suspects. All events so far are performed once more by other clients, with
#      the same decisions, while the present clients stay. If they leave others, rule 4 applies;
#      else the suspects are services
#
# Everything that a starter or a context manager has started, services included, must have ended
# once that has stopped its server. A bare handler has no end of its own, so its services may stay.

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from muxleak.checks.report import LeakError, LeakReport
from muxleak.introspect.waiting import links
from muxleak.ledger.counters import TaskRecord
from muxleak.server.events import CLIENTS, OF_CLIENT, ClientEvent, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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
_Key = tuple[str, str, Any]


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
        self._repeated: set[_Key] = set()  # of suspects for which events were performed once more
        self._history: list[ClientEvent] = []
        self._repeating = False
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
        await self._stop()

    async def _close_all(self) -> None:
        for slot, connection in enumerate(self._slots):
            if connection is not None and not connection.ended:
                if not self._repeating:
                    self.target.step(f"{CLIENTS[slot]} closes, at the end")
                await self._perform(ClientEvent("close", slot, 0, 0, 0), silent=True)

    async def _repeat(self, keys: set[_Key]) -> None:
        """Perform all events so far once more, by other clients, while the present ones stay.

        Whatever they leave again grows, and is a leak by rule 4.

        Args:
            keys: of the suspects for which it is done.
        """
        restart = self.running.stopped
        if self._repeating or (restart and self.running.ends_all):
            return  # what is left of a server that has stopped is found at the end
        self._repeated |= keys
        self._repeating, history = True, list(self._history)
        slots, self._slots = self._slots, [None] * self.plan.clients
        mark = self.target.step("the same events once more")
        self.target.repeat()
        if restart:
            await self._ended()
            await self.running.start()
        for event in history:
            await self._perform(event, silent=True)
        await self.target.settle()
        await self._check()
        await self._close_all()
        if restart:
            self.running.stop()
        self._repeating, self._slots = False, slots
        self.target.go_on(mark)

    async def _perform(self, event: ClientEvent, *, silent: bool = False) -> None:
        """Perform an event, wait as it says, and check."""
        if not self._repeating:
            self._history.append(event)
        await self._begin(event, silent=silent or self._repeating)
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
            if self._repeating:
                title += ", again"
            elif self._made[event.slot] > 1:
                title += f", connection {self._made[event.slot]}"
            connection = await self.target.connect(self.running.address, title)
            self._slots[event.slot] = connection
            if connection is None:
                return
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
        if not self._repeating:
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
        services = {each for each in self._suspects if not self.running.ends_all}

        def left() -> list[Any]:
            if self.running.kind == "main":
                return []  # the program has ended, and `asyncio.run` cancels its other tasks
            found = self.errors.counted(self.target.everything())
            return [each for each in found if id(each.thing()) not in services]

        if left():
            await self.target.give_time(left)
        if found := left():
            report = LeakReport.of(found)
            raise LeakError(report.noting("alive after the server has stopped"))
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
        if any(id(record.thing()) not in self._suspects for _, record in self._left()):
            await self.target.give_time(self._left_records)
            self.errors.check()
            left = self._left()
            self._judge(left)
            keys = {_key(record) for _, record in left} - self._repeated
            if keys:
                await self._repeat(keys)

    def _left_records(self) -> list[Any]:
        return [record for _, record in self._left()]

    def _left(self) -> list[tuple[GeneratedConnection, Any]]:
        found: list[tuple[GeneratedConnection, Any]] = []
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

    def _judge(self, left: list[tuple[GeneratedConnection, Any]]) -> None:
        """Raise if something is a leak; else note the suspects."""
        owners: dict[_Key, set[int]] = {}
        for connection, record in left:
            if connection.scope is not None:
                connection.scope.name = connection.title
            owners.setdefault(_key(record), set()).add(id(connection))
        certain = [
            record.kind in _ERRORS or len(owners[_key(record)]) > 1 or _is_of(record, connection)
            for connection, record in left
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


def _is_of(record: Any, connection: GeneratedConnection) -> bool:
    """Return True if a record is of the connection's own end, or of a task that works for it."""
    if connection.far is None:
        return False
    if record.thing() is connection.far:
        return True
    if not isinstance(record, TaskRecord):
        return False
    frames = [frame for frame, _ in links(record.task) if frame is not None]
    return any(_leads_to(frame.f_locals.values(), connection.far) for frame in frames)


def _leads_to(values: Iterable[Any], transport: Any) -> bool:
    """Return True if a value is this transport, or a stream or protocol on it."""
    for value in values:
        if isinstance(value, _ENDS):
            kept = vars(value) if hasattr(value, "__dict__") else {}
            if value is transport or any(each is transport for each in kept.values()):
                return True
    return False
