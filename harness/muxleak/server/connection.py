"""One connection of a generated client, and the client that a user has written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from muxleak.ledger.counters import Scope

    UserClient = Callable[["ClientStreams"], Coroutine[Any, Any, object]]

# A client that loses its connection, or is not answered, may raise these: it is not at fault.
ENDINGS = (OSError, EOFError)


class ClientStreams(NamedTuple):
    """The two streams of a connection, as the client of a user gets them.

    Attributes:
        reader: the bytes that the server sends.
        writer: sends bytes to the server.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class GeneratedConnection(asyncio.Protocol):
    """The client's end of a connection; it takes all bytes, and closes when the server closes.

    Attributes:
        title: names the client in reports, such as "client a".
        transport: the client's transport; None until it is connected.
        far: the server's transport, where it is known.
        scope: the scope that is charged for the server's side, once it is accepted.
        tasks: the tasks in which the user's client runs.
        half_closed: True if the client has closed its sending side.
        disturbed: True once an event has changed the connection under the user's client, or has cut
            that client short; its exceptions then say nothing about the server.
        stalled: True if the client has stopped reading.
        on_first: called with the first bytes that the client receives; None for nothing.
        server_port: the port of the server, on a real loop.
        own_address: the address of the client's end, on a real loop.
        repetition: the number of the repetition that has made it; 0 for none.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.transport: Any = None
        self.far: Any = None
        self.scope: Scope | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.half_closed = self.stalled = self.disturbed = False
        self.on_first: Callable[[], None] | None = None
        self.server_port = 0
        self.own_address: Any = None
        self.repetition = 0
        self._lost = False
        self._received = bytearray()

    def connection_made(self, transport: Any) -> None:
        """Note the transport."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Keep the bytes for the user's client, which may come later."""
        if self.on_first is not None and not self._received:
            self.on_first()
        self._received += data
        del self._received[:-_KEPT]

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        del exc
        self._lost = True

    @property
    def ended(self) -> bool:
        """True if the client's end is closed, or is being closed."""
        return self._lost or self.transport is None or bool(self.transport.is_closing())

    @property
    def has_received(self) -> bool:
        """True if the server has sent something, as far as is known."""
        return bool(self._received or self.tasks)

    def send(self, data: bytes) -> None:
        """Send bytes, if the sending side is still open."""
        if not self.half_closed and not self.ended:
            self.transport.write(data)

    def half_close(self) -> bool:
        """Close the sending side; return False if it is closed already."""
        if self.half_closed or self.ended:
            return False
        self.half_closed = True
        try:
            self.transport.write_eof()
        except OSError:
            # The server has closed, and this end has not heard of it yet.
            return False
        return True

    def disturb(self) -> None:
        """Note that an event has changed the connection, or has cut the user's client short."""
        self.disturbed = True

    def run(self, client: UserClient, cut: int) -> None:
        """Run the client of a user in a task, and close the connection after it.

        Args:
            client: the async function.
            cut: number of the await at which it is cancelled; 0 for none.
        """
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        reader.feed_data(bytes(self._received))
        loop = asyncio.get_running_loop()
        streams = ClientStreams(
            reader, asyncio.StreamWriter(self.transport, protocol, reader, loop)
        )
        self.tasks.append(loop.create_task(self._perform(client, streams, cut)))

    async def _perform(self, client: UserClient, streams: ClientStreams, cut: int) -> None:
        # It keeps the writer until the transport is closed: a writer that is dropped before warns.
        performance = client(streams)
        try:
            await (CutShort(performance, cut, self.disturb) if cut else performance)
        except (asyncio.CancelledError, *ENDINGS):
            pass
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # test runners have failures that are no `Exception`
            if not self.disturbed:
                raise
        finally:
            self.transport.close()


_KEPT = 1 << 16  # bytes


class CutShort:
    """Awaits a coroutine in a task, and cancels that task at one of its awaits.

    Args:
        coroutine: the coroutine.
        at: the number of the await, from 1.
        before: called before it is cancelled.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, object],
        at: int,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self._coroutine, self._at, self._before = coroutine, at, before

    def __await__(self) -> Generator[Any, Any, object]:
        task = asyncio.current_task()
        step = self._coroutine.__await__()
        resume: Callable[[Any], Any] = step.send
        value: Any = None
        number = 0
        while True:
            try:
                waits_for = resume(value)
            except StopIteration as stop:
                return stop.value
            number += 1
            if number == self._at and task is not None:
                self._before()
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                resume, value = step.send, (yield waits_for)
            except BaseException as error:  # noqa: BLE001 - passed on to the coroutine
                resume, value = step.throw, error
