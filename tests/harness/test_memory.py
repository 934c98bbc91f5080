"""The transport pair in memory: the same transcripts as loopback TCP, and nothing left behind."""

import asyncio
import contextlib
import contextvars
import gc
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from loops import LOOPS
from muxleak.checks.settle import settle
from muxleak.sim.memory_transport import MemoryTransport, Registry, memory_pair
from muxleak.sim.virtual_loop import VirtualLoop

Loops = Callable[[], asyncio.AbstractEventLoop]

Reaction = Callable[[Any], object]
BIG = bytes(16 * 1024 * 1024)  # more than the kernel takes for a reader that has stalled


class Recorder(asyncio.Protocol):
    """Writes down its callbacks and does what the script says for each."""

    def __init__(self, **reactions: Reaction) -> None:
        self.reactions = reactions
        self.log: list[tuple[str, object]] = []
        self.transport: Any = None

    def note(self, event: str, detail: object = None) -> object:
        """Write down one callback and react to it."""
        self.log.append((event, detail))
        return self.reactions.get(event, lambda _: None)(self.transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note it."""
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        """Note how much has come in a row, since TCP may cut and join at will."""
        if self.log[-1][0] == "data":
            self.log[-1] = ("data", int(str(self.log[-1][1])) + len(data))
            return
        self.note("data", len(data))

    def eof_received(self) -> bool:
        """Note it; the reaction decides whether the connection stays half open."""
        return bool(self.note("eof"))

    def pause_writing(self) -> None:
        """Note it."""
        self.note("pause")

    def resume_writing(self) -> None:
        """Note it."""
        self.note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the kind of loss."""
        self.note("lost", type(exc).__name__ if exc else None)


class BufferedRecorder(asyncio.BufferedProtocol):
    """The same over `BufferedProtocol`, with a buffer of ten bytes."""

    def __init__(self) -> None:
        self.inner = Recorder()
        self.received = bytearray()
        self.space = bytearray(10)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass on."""
        self.inner.connection_made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """The ten bytes."""
        assert sizehint == -1
        return self.space

    def buffer_updated(self, nbytes: int) -> None:
        """Keep what came."""
        self.received += self.space[:nbytes]

    def eof_received(self) -> bool:
        """Pass on."""
        return self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on."""
        self.inner.connection_lost(exc)


def rude_abort(transport: Any) -> None:
    """Abort so that TCP resets too: without lingering."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def fail(_: object) -> None:
    """Be a protocol with a bug."""
    raise ValueError("bug in a protocol")


def cancelled(_: object) -> None:
    """Look at the result of something that was cancelled."""
    raise asyncio.CancelledError


def both(*actions: Reaction) -> Reaction:
    """React with several actions, and keep half open."""

    def react(transport: Any) -> bool:
        for action in actions:
            action(transport)
        return True

    return react


def write(data: bytes) -> Reaction:
    """React by writing."""
    return lambda transport: transport.write(data)


def close(transport: Any) -> None:
    """React by closing."""
    transport.close()


def write_eof(transport: Any) -> None:
    """React by closing the sending direction."""
    transport.write_eof()


def pause(transport: Any) -> None:
    """React by not reading any more."""
    transport.pause_reading()


def resume(transport: Any) -> None:
    """React by reading again."""
    transport.resume_reading()


class Script:
    """What each end does on which event, and what the test does to them in between."""

    def __init__(
        self,
        client: dict[str, Reaction],
        server: dict[str, Reaction],
        *steps: tuple[str, Reaction],
    ) -> None:
        self.client, self.server, self.steps = client, server, steps


SCRIPTS = {
    "echo and close": Script({"made": write(b"hello"), "data": close}, {"data": write(b"world")}),
    "close at once": Script({"made": both(write(b"hello"), close)}, {}),
    "half close": Script(
        {"made": both(write(b"ask"), write_eof)}, {"eof": both(write(b"answer"), close)}
    ),
    "both half closed": Script(
        {"made": write_eof, "eof": both()},
        {"eof": both(write_eof)},
        ("client", close),
        ("server", close),
    ),
    "end of file closes": Script({"made": write_eof}, {}),
    "abort": Script({"made": write(b"x"), "data": rude_abort}, {"data": write(b"y")}),
    "abort unnoticed": Script(
        {}, {"made": pause}, ("client", rude_abort), ("server", pause), ("server", resume)
    ),
    "abort met by writing": Script(
        {}, {"made": pause}, ("client", rude_abort), ("server", write(b"x"))
    ),
    "close with much to send": Script({"made": both(write(BIG), close)}, {}),
    "stalled reader": Script(
        {"made": write(BIG)}, {"made": pause}, ("server", resume), ("client", close)
    ),
    "abort of a stalled writer": Script(
        {"made": write(BIG)}, {"made": pause}, ("client", rude_abort), ("server", close)
    ),
    "close on a stalled writer": Script({"made": write(BIG)}, {"made": pause}, ("server", close)),
    "close with unread data": Script(
        {}, {"made": pause}, ("client", write(b"x")), ("server", close)
    ),
    "data before a late end": Script(
        {"made": both(write(b"x"), close)}, {"made": pause}, ("server", resume)
    ),
    "write to one that closed": Script(
        {"eof": both()},
        {"made": close},
        ("client", write(b"x")),
        ("client", write(b"y")),
        ("client", write(b"z")),
    ),
    "protocol with a bug": Script({"made": write(b"x")}, {"data": fail}),
    "protocol that meets a cancellation": Script({"made": write(b"x")}, {"data": cancelled}),
    "protocol with a bug at the end": Script({"made": write_eof}, {"eof": fail}),
}


async def over_memory(client: Recorder, server: Recorder) -> Callable[[], None]:
    """Connect two recorders in memory."""
    registry: Registry = {}
    memory_pair(asyncio.get_running_loop(), client, server, registry=registry)
    assert list(registry.values()) == ["client", "server"]

    def check() -> None:
        assert not registry

    return check


async def over_tcp(client: Recorder, server: Recorder) -> Callable[[], None]:
    """Connect two recorders over loopback TCP."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    await loop.create_connection(lambda: client, "127.0.0.1", port)
    return listener.close


async def play(
    script: Script, connect: Callable[[Recorder, Recorder], Coroutine[Any, Any, Callable[[], None]]]
) -> tuple[list[Any], list[Any], list[str]]:
    """Run a script to the loss of both ends; what each saw, and what the loop complained of."""
    errors: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
    ends = {"client": Recorder(**script.client), "server": Recorder(**script.server)}
    finish = await connect(ends["client"], ends["server"])
    await settle(until=lambda: all(end.transport for end in ends.values()))
    for end, action in script.steps:
        await settle(quiet=0.001)
        action(ends[end].transport)
    assert await settle(
        limit=5, until=lambda: all(end.log[-1][0] == "lost" for end in ends.values())
    ), ends["client"].log + ends["server"].log
    finish()
    return ends["client"].log, ends["server"].log, errors


@pytest.mark.parametrize("name", SCRIPTS)
def test_pair_behaves_as_loopback_tcp(name: str) -> None:
    """Both ends see the same callbacks over memory and over sockets."""
    memory, tcp = (asyncio.run(play(SCRIPTS[name], each)) for each in (over_memory, over_tcp))

    assert memory == tcp


@LOOPS
def test_pair_carries_streams_on_any_loop(new_loop: Loops) -> None:
    """StreamReader and StreamWriter work over it, drain included."""

    async def main() -> bytes:
        readers = [asyncio.StreamReader() for _ in range(2)]
        protocols = [asyncio.StreamReaderProtocol(reader) for reader in readers]
        ours = asyncio.get_running_loop()
        pair = memory_pair(ours, *protocols, high_water=10)
        writers = [
            asyncio.StreamWriter(transport, protocol, reader, ours)
            for transport, protocol, reader in zip(pair, protocols, readers, strict=True)
        ]
        writers[0].write(b"a" * 100)
        await writers[0].drain()
        writers[0].write_eof()
        got = await readers[1].read()
        for writer in writers:
            writer.close()
            await writer.wait_closed()
        return got

    loop = new_loop()
    with contextlib.closing(loop):
        assert loop.run_until_complete(main()) == b"a" * 100


def test_data_arrives_later_and_at_once(loop: VirtualLoop) -> None:
    """Nothing is delivered inside write, and what has gathered comes in one callback."""
    client, server = Recorder(), Recorder()
    transport, _ = memory_pair(loop, client, server)
    for _ in range(3):
        transport.write(b"abc")
    assert server.log == []

    assert loop.run_until_quiescent() == 1
    assert server.log == [("made", None), ("data", 9)]


def test_stalled_reader_leaves_bytes_with_the_sender(loop: VirtualLoop) -> None:
    """A paused receiver takes nothing; the marks say when the sender pauses and resumes."""
    client, server = Recorder(), Recorder(made=pause)
    ours, theirs = memory_pair(loop, client, server, high_water=100)
    loop.run_until_quiescent()
    assert ours.get_write_buffer_limits() == (25, 100)

    ours.write(bytes(100))
    loop.run_until_quiescent()
    assert (ours.get_write_buffer_size(), client.log) == (100, [("made", None)])

    ours.write(b"x")
    assert client.log[-1] == ("pause", None)
    assert not theirs.is_reading()

    theirs.resume_reading()
    loop.run_until_quiescent()
    assert (ours.get_write_buffer_size(), client.log[-1]) == (0, ("resume", None))
    assert server.log[-1] == ("data", 101)


def test_sender_that_fills_the_buffer_anew_is_paused_after_it_is_resumed(
    loop: VirtualLoop,
) -> None:
    """Pauses and resumptions alternate, whenever the sender writes: streams rely on it."""

    def refill(_: object) -> None:
        ours.write(bytes(200))

    client, server = Recorder(), Recorder(made=pause, data=refill)
    ours, theirs = memory_pair(loop, client, server, high_water=100)
    loop.run_until_quiescent()
    ours.write(bytes(101))
    theirs.resume_reading()
    loop.turn(2)

    assert client.log == [("made", None), ("pause", None), ("resume", None), ("pause", None)]


def test_buffered_protocol_is_filled_piece_by_piece(loop: VirtualLoop) -> None:
    """A BufferedProtocol gets as much as its buffer holds, in order."""
    server = BufferedRecorder()
    transport, _ = memory_pair(loop, Recorder(), server)
    transport.write(b"0123456789abcdef")
    transport.write(bytearray(b"ghij"))
    transport.writelines([b"k", memoryview(b"l")])
    transport.close()
    loop.run_until_quiescent()

    assert server.received == b"0123456789abcdefghijkl"
    assert [event for event, _ in server.inner.log] == ["made", "eof", "lost"]


def test_callbacks_run_in_the_context_of_their_end(loop: VirtualLoop) -> None:
    """The server's callbacks see the server's context, whoever caused them."""
    side = contextvars.ContextVar("side", default="none")
    contexts = {name: contextvars.Context() for name in ("client", "server")}
    seen: list[str] = []
    client = Recorder(made=lambda _: seen.append(side.get()), data=close)
    server = Recorder(data=both(lambda _: seen.append(side.get()), write(b"y")))
    memory_pair(
        loop,
        client,
        server,
        client_context=contexts["client"],
        server_context=contexts["server"],
    )[0].write(b"x")
    server.reactions["lost"] = client.reactions["lost"] = lambda _: seen.append(side.get())
    # The contexts themselves, and no copies of them, though they were empty when they were given.
    for name, context in contexts.items():
        context.run(side.set, name)
    loop.run_until_quiescent()

    assert seen == ["client", "server", "client", "server"]


def test_pair_answers_as_a_transport(loop: VirtualLoop) -> None:
    """Addresses mirror each other, wrong use is refused, and the text has no address in memory."""
    client, server = memory_pair(loop, Recorder(), Recorder(), peername=("10.0.0.1", 7))
    assert client.get_extra_info("sockname") == ("10.0.0.1", 7)
    assert server.get_extra_info("peername") == ("10.0.0.1", 7)
    assert server.get_extra_info("socket") is None
    assert repr(client) == "<MemoryTransport client to 127.0.0.1:443 open>"
    assert client.can_write_eof()
    with pytest.raises(TypeError, match="data argument must be a bytes"):
        client.write("text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be >="):
        client.set_write_buffer_limits(high=1, low=2)

    client.write_eof()
    with pytest.raises(RuntimeError, match="after write_eof"):
        client.write(b"x")
    loop.run_until_quiescent()
    assert (client.is_closing(), server.is_closing()) == (True, True)
    assert repr(client).endswith("closed>")
    for transport in (client, server):
        transport.close()
        transport.abort()
        transport.resume_reading()
    server.write(b"dropped")
    assert loop.run_until_quiescent() == 0


def test_registry_names_what_is_left_open(loop: VirtualLoop) -> None:
    """A transport that its protocol never closes stays in the registry until it does."""
    registry: Registry = {}
    client, server = memory_pair(loop, Recorder(), Recorder(eof=both()), registry=registry)
    client.close()
    loop.run_until_quiescent()
    assert registry == {server: "server"}

    server.close()
    loop.run_until_quiescent()
    assert registry == {}


@pytest.mark.parametrize("end", [MemoryTransport.close, MemoryTransport.abort])
def test_closed_pair_leaves_no_cycle(
    loop: VirtualLoop, end: Callable[[MemoryTransport], None]
) -> None:
    """Once both ends are closed the garbage collector finds nothing."""

    def session() -> None:
        client = Recorder(made=write(b"x"))
        memory_pair(loop, client, Recorder(data=write(b"y")))
        loop.run_until_quiescent()
        end(client.transport)
        loop.run_until_quiescent()

    session()
    gc.collect()
    gc.disable()
    try:
        session()
        assert gc.collect() == 0
    finally:
        gc.enable()
