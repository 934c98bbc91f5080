"""Programs on asyncio's own loop with real sockets and in the simulation: they observe the same.

`test_running_version.py` compares what asyncio's releases treat differently.
"""

import asyncio
import gc
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

import pytest

from muxleak.sim import Network, simulate

HOST = "127.0.0.1"
LARGE = 16 << 20  # bytes, more than the buffers of a loopback connection hold
Reaction = Callable[[Any], object]
Program = Callable[[], Coroutine[Any, Any, Any]]


async def turns(count: int = 30) -> None:
    """Let so many iterations pass; over loopback everything has arrived by then."""
    for _ in range(count):
        await asyncio.sleep(0)


class Observer(asyncio.Protocol):
    """Notes its callbacks, reacts to some of them, and gives an answer to the end of file."""

    def __init__(self, answer: object = None, **reactions: Reaction) -> None:
        self.events: list[Any] = []
        self.answer, self.reactions = answer, reactions
        self.transport: Any = None

    def note(self, name: str, *details: object) -> None:
        """Note a callback, and react to it; data that come in a row are one event."""
        if name == "data" and self.events and self.events[-1][0] == "data":
            self.events[-1] = "data", self.events[-1][1] + details[0]
            return
        self.events.append((name, *details))
        self.reactions.get(name, lambda _: None)(self.transport)

    def connection_made(self, transport: Any) -> None:
        """Note it."""
        self.transport = transport
        self.note("made")

    def data_received(self, data: bytes) -> None:
        """Note it."""
        self.note("data", data)

    def eof_received(self) -> Any:
        """Note it, and answer."""
        self.note("eof", self.transport.is_closing())
        return self.answer

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the class of the error."""
        self.note("lost", type(exc).__name__, self.transport.is_closing())

    def pause_writing(self) -> None:
        """Note it."""
        self.note("pause")

    def resume_writing(self) -> None:
        """Note it."""
        self.note("resume")


class Pieces(asyncio.BufferedProtocol):
    """Notes what arrives in a buffer of four bytes."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.buffer = bytearray(4)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the buffer."""
        del sizehint
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Note the bytes."""
        self.events.append(bytes(self.buffer[:nbytes]))

    def eof_received(self) -> None:
        """Note it."""
        self.events.append("eof")


class Packets(asyncio.DatagramProtocol):
    """Notes its callbacks, and may fail in one."""

    def __init__(self, *, fails: bool = False) -> None:
        self.events: list[Any] = []
        self.fails = fails
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Note it, with the form of the address."""
        self.events.append((data, addr[0], len(addr)))
        if self.fails:
            raise ValueError

    def error_received(self, exc: Exception) -> None:
        """Note the class."""
        self.events.append(type(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the class of the error."""
        self.events.append(("lost", type(exc).__name__, self.transport.is_closing()))


def attempt(call: Callable[..., object], *arguments: object) -> object:
    """Return the result of a call, or its error."""
    try:
        return call(*arguments)
    except Exception as exc:  # noqa: BLE001 - the observation
        return type(exc).__name__, str(exc)


async def outcome(awaited: Awaitable[object]) -> Any:
    """Return the result of an awaitable, or its error."""
    try:
        return await awaited
    except asyncio.CancelledError:
        return "cancelled"
    except Exception as exc:  # noqa: BLE001 - the observation
        return type(exc).__name__, str(exc)


def running() -> Any:
    """Return the running loop."""
    return asyncio.get_running_loop()


def messages() -> list[object]:
    """Return a list to which the loop's exception handler adds."""
    found: list[object] = []

    def handle(_: object, context: dict[str, Any]) -> None:
        # The names of the loop's own classes and callbacks differ.
        text = re.split(r"callback|\(<", context["message"])[0]
        found.append((text, type(context.get("exception")).__name__))

    asyncio.get_running_loop().set_exception_handler(handle)
    return found


async def connected(client: Any = None, server: Any = None) -> tuple[Any, Any, Any]:
    """Connect two protocols: the listening server, the client's and the server's."""
    loop = running()
    near, far = client or Observer(), server or Observer()
    listening = await loop.create_server(lambda: far, HOST, 0)
    await loop.create_connection(lambda: near, *listening.sockets[0].getsockname())
    await turns()
    return listening, near, far


async def streams(handler: Any) -> tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect streams: the listening server, the client's reader and writer."""
    listening = await asyncio.start_server(handler, HOST, 0)
    return listening, *await asyncio.open_connection(*listening.sockets[0].getsockname())


def numbered(thing: Any, ports: dict[int, str]) -> Any:
    """Return an address with the names of its ports."""
    return tuple(ports.get(part, part) for part in thing) if isinstance(thing, tuple) else thing


async def extra_information() -> object:
    """`get_extra_info` of both ends, their sockets, and the server's."""
    listening, client, server = await connected()
    listens = listening.sockets[0]
    ports = {
        client.transport.get_extra_info("sockname")[1]: "client's",
        listens.getsockname()[1]: "server's",
    }
    seen: list[object] = []
    for end in (client, server):
        info, sock = end.transport.get_extra_info, end.transport.get_extra_info("socket")
        names = (
            "peername sockname compression cipher peercert sslcontext ssl_object pipe subprocess"
        )
        seen += [(name, numbered(info(name), ports)) for name in names.split()]
        seen += [info("nothing"), info("nothing", 7), end.transport.get_protocol() is end]
        seen += [numbered(sock.getsockname(), ports), numbered(sock.getpeername(), ports)]
        seen += [sock.family, sock.type, sock.proto, sock.gettimeout(), sock.get_inheritable()]
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        option = socket.SOL_SOCKET, socket.SO_KEEPALIVE
        seen += [sock.getsockopt(*option), sock.setsockopt(*option, 1), sock.getsockopt(*option)]
        seen += [attempt(sock.setblocking, flag) for flag in (False, True)]
        seen += [attempt(sock.settimeout, limit) for limit in (0, None)]
        seen += [hasattr(sock, name) for name in ("send", "recv", "close", "accept", "detach")]
    seen += [numbered(listens.getsockname(), ports), listens.family, listens.type, listens.proto]
    seen += [len(listening.sockets), type(listening.sockets), listening.is_serving()]
    client.transport.close()
    await turns()
    seen += [numbered(end.transport.get_extra_info("peername"), ports) for end in (client, server)]
    seen += [end.transport.get_protocol() for end in (client, server)]
    listening.close()
    return [*seen, listening.sockets, listening.is_serving()]


async def addresses_of_ipv6() -> object:
    """They have four parts, and a client has the loopback address of the family."""
    loop = running()
    far = Observer()
    listening = await loop.create_server(lambda: far, "::1", 0)
    address = listening.sockets[0].getsockname()
    transport, _ = await loop.create_connection(Observer, *address[:2])
    await turns()
    info = transport.get_extra_info
    own = info("sockname")
    seen = [len(address), info("peername") == address, own[0], own[2:], info("socket").family]
    seen.append(far.transport.get_extra_info("peername") == own)
    endpoint, packets = await loop.create_datagram_endpoint(Packets, local_addr=("::1", 0))
    endpoint.sendto(b"to itself", endpoint.get_extra_info("sockname"))
    await turns()
    transport.close()
    endpoint.close()
    listening.close()
    await turns()
    return [*seen, packets.events]


def half_close(answer: object) -> Program:
    """Make a program in which each end answers `eof_received` with this value."""

    async def program() -> object:
        listening, client, server = await connected(Observer(answer), Observer(answer))
        near, far = client.transport, server.transport
        near.write(b"ask")
        seen: list[object] = [near.can_write_eof(), near.write_eof(), near.write_eof()]
        seen += [attempt(near.write, b"x"), attempt(near.writelines, [b"x"])]
        await turns()
        seen += [far.is_closing(), far.is_reading(), near.is_closing(), near.is_reading()]
        far.write(b"answer")
        await turns()
        far.pause_reading()
        seen.append(far.is_reading())
        far.resume_reading()
        seen.append(far.is_reading())
        far.close()
        await turns()
        seen += [near.is_closing(), near.is_reading()]
        near.close()
        await turns()
        listening.close()
        return client.events, server.events, seen

    program.__name__ = f"half_close_{answer!r}"
    return program


async def calls_after_close() -> object:
    """Right after `close`, and after `connection_lost`."""
    listening, client, server = await connected()
    near, seen = client.transport, []
    near.close()
    for _ in range(2):
        seen += [attempt(near.write, data) for data in (b"x", bytearray(b"y"), "text", 3)]
        seen += [near.write_eof(), near.close(), near.abort(), near.is_closing()]
        seen += [near.pause_reading(), near.resume_reading(), near.is_reading()]
        seen += [near.get_write_buffer_size(), near.can_write_eof()]
        await turns()
    listening.close()
    return client.events, server.events, seen, near.get_protocol()


async def data_of_all_types() -> object:
    """Types that may be written, also one that changes afterwards; and the limits of the buffer."""
    listening, client, server = await connected()
    near, changes = client.transport, bytearray(b"changes")
    wide = memoryview(b"abcdefgh").cast("I")
    for data in (b"", b"a", bytearray(b"b"), memoryview(b"c"), wide, changes):
        near.write(data)
    changes[:] = b"CHANGED"
    seen: list[object] = [attempt(near.write, data) for data in ("x", None, [1], 3)]
    near.writelines([b"d", bytearray(b"e"), memoryview(b"f")])
    near.writelines([])
    await turns()  # the simulation takes bytes that are under way for unsent ones
    for high, low in [(1, 5), (-1, None), (None, None), (None, 100), (0, None), (7, None)]:
        seen += [attempt(near.set_write_buffer_limits, high, low), near.get_write_buffer_limits()]
    near.close()
    await turns()
    listening.close()
    return client.events, server.events, seen


async def reading_is_paused() -> object:
    """Twice, resumed twice, while data and the peer's close arrive, and from the first moment."""
    listening, client, server = await connected(server=Observer(made=pause))
    near, far = client.transport, server.transport
    seen: list[object] = [far.is_reading(), far.pause_reading(), far.is_reading()]
    near.write(b"one")
    await turns()
    seen += [list(server.events), far.resume_reading(), far.resume_reading(), far.is_reading()]
    await turns()
    far.pause_reading()
    near.write(b"two")
    near.close()
    await turns()
    seen += [list(client.events), list(server.events)]
    far.resume_reading()
    await turns()
    listening.close()
    return seen, client.events, server.events


async def end_of_file_and_abort_while_paused() -> object:
    """A paused end learns of neither, until it reads on."""
    seen: list[object] = []
    for end in ("write_eof", "abort"):
        listening, client, server = await connected()
        server.transport.pause_reading()
        client.transport.write(b"before")
        await turns()
        getattr(client.transport, end)()
        await turns()
        seen += [list(server.events), server.transport.is_closing()]
        server.transport.resume_reading()
        await turns()
        listening.close()
        seen += [client.events, server.events]
    return seen


async def abort_with_unread_data() -> object:
    """The peer of an end that has not read all sees a reset; of one that has, an end of file."""
    seen: list[object] = []
    for unread in (b"unread", b""):
        listening, client, server = await connected()
        server.transport.pause_reading()
        client.transport.write(unread)
        await turns()
        server.transport.write(b"sent before")
        server.transport.abort()
        await turns()
        listening.close()
        seen.append((server.events, client.events[-1]))
    return seen


async def sockets_that_do_not_linger() -> object:
    """With SO_LINGER of zero seconds `close` and `abort` are a reset."""
    seen: list[object] = []
    for end, linger in (("close", 0), ("abort", 0), ("abort", 1)):
        listening, client, server = await connected()
        sock = client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger))
        getattr(client.transport, end)()
        await turns()
        server.transport.close()
        await turns()
        listening.close()
        seen += [client.events, server.events]
    return seen


def close(transport: Any) -> None:
    """React by closing."""
    transport.close()


def abort(transport: Any) -> None:
    """React by aborting."""
    transport.abort()


def pause(transport: Any) -> None:
    """React by pausing."""
    transport.pause_reading()


def fail(_: object) -> None:
    """React by failing."""
    raise ValueError


def reaction(event: str, react: Reaction) -> Program:
    """Make a program whose server reacts to one callback."""

    async def program() -> object:
        said = messages()
        listening, client, server = await connected(server=Observer(**{event: react}))
        client.transport.write(b"one")
        await turns()
        client.transport.write(b"two")
        await turns()
        client.transport.close()
        await turns()
        server.transport.resume_reading()
        await turns()
        server.transport.close()
        await turns()
        listening.close()
        return client.events, server.events, said

    program.__name__ = f"{react.__name__}_in_{event}"
    return program


async def peer_that_has_closed_is_written_to() -> object:
    """The first write draws a reset, of which the second one learns."""
    seen: list[object] = []
    for server in (Observer(answer=True), Observer(made=pause)):
        listening, client, _ = await connected(server=server)
        client.transport.close()
        await turns()
        for _ in range(3):
            seen.append(attempt(server.transport.write, b"x"))
            await turns()
            seen.append(server.transport.is_closing())
        server.transport.abort()
        await turns()
        listening.close()
        seen.append(server.events)
    return seen


async def buffered_protocol() -> object:
    """Data in pieces of the buffer's size; a protocol may be changed for one."""
    listening, client, server = await connected(server=Observer())
    pieces = Pieces()
    client.transport.write(b"first")
    await turns()
    server.transport.set_protocol(pieces)
    client.transport.write(b"abcdefghij")
    await turns()
    client.transport.close()
    await turns()
    listening.close()
    return server.events, pieces.events


def drains(end: str) -> Program:
    """Make a program that drains after the server has ended the connection."""

    async def program() -> object:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if end == "reset":
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                await turns()
            else:
                await reader.read(1)
            writer.transport.abort() if end != "close" else writer.close()

        listening, reader, writer = await streams(serve)
        writer.write(b"x")
        await turns(60)
        seen: list[object] = [writer.is_closing(), reader.at_eof()]
        for _ in range(3):
            seen += [attempt(writer.write, b"x"), await outcome(writer.drain())]
            await turns()
            seen.append(writer.is_closing())
        seen += [await outcome(reader.read()), type(reader.exception()).__name__]
        writer.close()
        seen += [await outcome(writer.wait_closed()), await outcome(writer.drain())]
        listening.close()
        return seen

    program.__name__ = f"drains_after_{end}"
    return program


async def blocked_drain() -> object:
    """Ended by a cancellation, and by a reset; then the writer is waited for."""
    seen: list[object] = []
    for how in ("cancel", "reset"):
        ended = asyncio.Event()

        async def serve(
            _: asyncio.StreamReader, writer: asyncio.StreamWriter, ended: asyncio.Event = ended
        ) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await ended.wait()
            writer.transport.abort()

        listening, reader, writer = await streams(serve)
        await turns()
        writer.write(bytes(LARGE))
        drain = asyncio.ensure_future(outcome(writer.drain()))
        await turns()
        seen += [drain.done(), writer.is_closing()]
        if how == "cancel":
            drain.cancel()
        else:
            ended.set()
        seen += [await drain, writer.is_closing()]
        writer.close()
        waited = asyncio.ensure_future(outcome(writer.wait_closed()))
        await turns()
        seen.append(waited.done())
        ended.set()
        seen += [await waited, await outcome(reader.read())]
        listening.close()
    return seen


async def writer_is_waited_for() -> object:
    """While it closes, twice, and after a half-close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    listening, reader, writer = await streams(serve)
    seen: list[object] = [writer.can_write_eof(), writer.is_closing()]
    writer.write(b"ask")
    writer.write_eof()
    seen += [attempt(writer.write, b"x"), await outcome(reader.read()), reader.at_eof()]
    writer.close()
    seen += [await outcome(writer.wait_closed()) for _ in range(2)]
    seen += [await outcome(writer.drain()), writer.is_closing()]
    _, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    writer.write(b"ask")
    writer.close()
    seen += [await outcome(writer.drain()), await outcome(writer.wait_closed())]
    await turns()
    listening.close()
    return seen


async def reads_of_streams() -> object:
    """Two at a time, one that is cancelled, and more than the reader's limit."""
    going = asyncio.Event()
    writers: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await going.wait()
        writer.write(str(len(await reader.read())).encode())
        writer.close()

    listening, reader, writer = await streams(serve)
    first = asyncio.ensure_future(outcome(reader.read(1)))
    await turns()
    seen: list[object] = [await outcome(reader.readline())]
    first.cancel()
    seen.append(await first)
    writer.write(bytes(300_000))
    writer.write_eof()
    await turns()
    seen.append(writers[0].transport.is_reading())
    going.set()
    seen.append(await outcome(reader.read()))
    writer.close()
    await turns()
    listening.close()
    return seen


async def handler_fails_or_returns() -> object:
    """The connection of a handler that fails is closed; of one that returns it stays open."""
    said, seen = messages(), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept.append(writer)
        if await reader.read(1) == b"f":
            raise ValueError

    kept: list[asyncio.StreamWriter] = []
    for byte in (b"f", b"r"):
        listening, reader, writer = await streams(serve)
        writer.write(byte)
        await turns()
        gc.collect()
        seen += [kept[-1].is_closing(), reader.at_eof(), writer.is_closing()]
        for each in (writer, kept[-1]):
            each.close()
        await turns()
        listening.close()
    return seen, said


async def methods_of_servers() -> object:
    """Serving later, twice and after a close; addresses that are in use and free again."""
    loop = running()
    listening = await loop.create_server(Observer, HOST, 0, start_serving=False)
    address = listening.sockets[0].getsockname()
    seen: list[Any] = [listening.is_serving()]
    await listening.start_serving()
    await listening.start_serving()
    serving = asyncio.ensure_future(outcome(listening.serve_forever()))
    await turns(2)
    seen += [listening.is_serving(), (await outcome(listening.serve_forever()))[0]]
    seen.append((await outcome(loop.create_server(Observer, *address)))[0])
    listening.close()
    listening.close()
    seen += [listening.is_serving(), listening.sockets, await serving]
    seen += [(await outcome(listening.serve_forever()))[0], await outcome(listening.wait_closed())]
    seen += [await outcome(listening.start_serving()), listening.is_serving()]
    again = await loop.create_server(Observer, *address)
    seen.append(again.is_serving())
    again.close()
    return seen


async def server_is_left_with_an_idle_client() -> object:
    """By the end of its block, by a cancellation in it, and by a close in `serve_forever`."""

    async def leave() -> None:
        async with listening:
            pass

    async def serve() -> None:
        async with listening:
            await listening.serve_forever()

    seen: list[object] = []
    for body, end in ((leave, None), (serve, "cancel"), (serve, "close")):
        listening, client, server = await connected()
        leaving = asyncio.ensure_future(body())
        await turns()
        if end == "cancel":
            leaving.cancel()
        elif end == "close":
            listening.close()
        await turns()
        seen += [leaving.done(), client.transport.is_closing(), list(client.events)]
        client.transport.close()
        await turns()
        seen += [leaving.done(), leaving.cancelled(), client.events, server.events]
    return seen


def ends_clients(name: str) -> Program:
    """Make a program that ends the clients by a method that servers have from 3.13 on."""

    async def program() -> object:
        listening, client, server = await connected()
        client.transport.write(b"on its way")
        await turns()
        seen: list[object] = [hasattr(listening, name)]
        if seen[0]:
            getattr(listening, name)()
            seen += [client.transport.is_closing(), server.transport.is_closing()]
            await turns()
            seen += [listening.is_serving(), getattr(listening, name)()]
        client.transport.close()
        await turns()
        listening.close()
        return [*seen, await outcome(listening.wait_closed()), client.events, server.events]

    program.__name__ = name
    return program


async def factories_that_fail() -> object:
    """Of a server, whose client sees the end; of a client, whose server sees it."""
    said, loop = messages(), running()
    client, server = Observer(), Observer()
    for near, far in ((lambda: client, lambda: fail(0)), (lambda: fail(0), lambda: server)):
        listening = await loop.create_server(far, HOST, 0)
        connecting = loop.create_connection(near, *listening.sockets[0].getsockname())
        said.append(type(await outcome(connecting)))
        await turns()
        listening.close()
        said.append(await outcome(listening.wait_closed()))
    return client.events, server.events, said


async def connections_that_are_refused() -> object:
    """The words of the error, in both ways to connect; arguments that do not exist."""
    loop = running()
    listening = await loop.create_server(Observer, HOST, 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await turns()
    seen: list[object] = []
    for settings in ({}, {"happy_eyeballs_delay": 0.25}):
        text = str(await outcome(loop.create_connection(Observer, HOST, port, **settings)))
        seen.append(text.replace(str(port), "PORT"))
    for call, name in (
        (loop.create_server, "happy_eyeballs_delay"),
        (loop.create_connection, "backlog"),
        (loop.create_datagram_endpoint, "reuse_address"),
    ):
        seen.append((await outcome(unknown(call, name)))[0])
    return seen


async def unknown(method: Any, name: str) -> None:
    """Call a method with an argument that it does not have."""
    await method(Observer, HOST, 0, **{name: None})


def connecting_is_cancelled(**settings: Any) -> Program:
    """Make a program that cancels a connection attempt after each number of iterations.

    The loops need different numbers of iterations, so the set of all courses is compared.
    """

    async def program() -> object:
        courses: set[str] = set()
        loop = running()
        for iterations in range(14):
            client, server = Observer(), Observer()
            listening = await loop.create_server(lambda: server, HOST, 0)  # noqa: B023
            address = listening.sockets[0].getsockname()
            connecting = asyncio.ensure_future(
                loop.create_connection(lambda: client, *address, **settings)  # noqa: B023
            )
            await turns(iterations)
            done = connecting.done() or connecting.cancel() is None
            await asyncio.wait([connecting])
            await turns()
            if [client.events, server.events] == [[], [("made",)]] and "lost" not in courses:
                gc.collect()  # closes the socket that asyncio has lost
                await turns()
                courses.add("lost")
            courses.add(f"{done} {client.events} {server.events}")
            listening.close()
            for end in (client, server):
                if end.transport is not None:
                    end.transport.close()
            await turns()
        gc.collect()  # for the others
        return sorted(courses)

    program.__name__ = f"connecting_is_cancelled_{'_'.join(settings)}"
    return program


async def server_closes_as_a_client_connects() -> object:
    """Before the connection arrives, as it is accepted, and after; the set of all courses."""
    courses: set[str] = set()
    loop = running()
    for iterations in range(10):
        server = Observer()
        listening = await loop.create_server(lambda: server, HOST, 0)  # noqa: B023
        address = listening.sockets[0].getsockname()
        connecting = asyncio.ensure_future(loop.create_connection(Observer, *address))
        await turns(iterations)
        listening.close()
        await asyncio.wait([connecting])
        await turns()
        if error := connecting.exception():
            courses.add(str(error).replace(str(address[1]), "PORT"))
            continue
        transport, client = connecting.result()
        transport.write(b"anybody there?")
        await turns()
        if not server.events:
            gc.collect()  # as above
            await turns()
            courses.add("stranded")
        courses.add(f"{client.events} {server.events}")
        transport.close()
        await turns()
    return sorted(courses)


async def datagrams() -> object:
    """Addresses, replies, strangers, empty and large ones, closed endpoints, failures."""
    said, loop = messages(), running()
    open_endpoint = loop.create_datagram_endpoint
    there, server = await open_endpoint(Packets, local_addr=(HOST, 0))
    address = there.get_extra_info("sockname")
    here, client = await open_endpoint(Packets, remote_addr=address)
    other, _ = await open_endpoint(Packets, local_addr=(HOST, 0))
    seen: list[object] = [here.get_extra_info("peername") == address, there.is_closing()]
    for transport in (here, there):
        sock = transport.get_extra_info("socket")
        seen += [sock.family, sock.type, sock.proto, transport.get_extra_info("sockname")[0]]
    seen += [there.get_extra_info("peername"), here.get_write_buffer_size()]
    seen += [here.get_write_buffer_limits(), here.get_protocol() is client]
    own = here.get_extra_info("sockname")
    for transport, data, target in (
        (here, b"to the peer", None),
        (here, b"by name", address),
        (here, b"", None),
        (there, bytearray(b"answer"), own),
        (there, memoryview(b"view"), own),
        (other, b"from a stranger", own),
        (here, bytes(70_000), None),
        (there, bytes(70_000), own),
    ):
        transport.sendto(data, target)
        await turns()
    seen += [attempt(here.sendto, "text"), str(attempt(here.sendto, b"x", (HOST, 9)))[:40]]
    there.close()
    seen.append(there.is_closing())
    await turns()
    for _ in range(2):
        here.sendto(b"nobody hears")
        await turns()
    here.abort()
    here.close()
    other.sendto(b"to no address")  # the endpoint fails
    await turns()
    return client.events, server.events, other.is_closing(), seen, said


async def datagram_endpoints_that_cannot_be_made() -> object:
    """No address, one in use, a factory that fails; a protocol that fails keeps its endpoint."""
    said, loop = messages(), running()
    open_endpoint = loop.create_datagram_endpoint
    there, server = await open_endpoint(lambda: Packets(fails=True), local_addr=(HOST, 0))
    address = there.get_extra_info("sockname")
    seen: list[Any] = [await outcome(open_endpoint(Packets))]
    seen.append((await outcome(open_endpoint(Packets, local_addr=address)))[0])
    seen.append((await outcome(open_endpoint(lambda: fail(0), local_addr=(HOST, 0))))[0])
    here, _ = await open_endpoint(Packets, family=socket.AF_INET)
    seen.append(here.get_extra_info("sockname")[0])
    for _ in range(2):
        here.sendto(b"x", address)
        await turns()
    seen.append(there.is_closing())
    here.close()
    there.close()
    await turns()
    gc.collect()  # the socket of the endpoint without a protocol
    return server.events, seen, said


async def datagram_endpoint_is_cancelled() -> object:
    """As it is opened, after each number of iterations; the set of all courses."""
    courses: set[str] = set()
    for iterations in range(8):
        packets = Packets()
        opening = asyncio.ensure_future(
            running().create_datagram_endpoint(lambda: packets, local_addr=(HOST, 0))  # noqa: B023
        )
        await turns(iterations)
        done = opening.done() or opening.cancel() is None
        await asyncio.wait([opening])
        await turns()
        courses.add(f"{done} {opening.cancelled()} {packets.events}")
        if not opening.cancelled():
            opening.result()[0].close()
        await turns()
    return sorted(courses)


def dropped(state: str) -> Program:
    """Make a program that drops the server's end of a connection in some state, and collects."""

    async def program() -> object:
        listening, client, server = await connected(Observer(answer=True), Observer(answer=True))
        if state == "unread":
            server.transport.pause_reading()
            client.transport.write(b"unread")
        elif state == "paused":
            server.transport.pause_reading()
        elif state == "half-closed":
            client.transport.write_eof()
        await turns()
        held = server.transport if state == "held" else None
        if held:
            held.pause_reading()
        server.transport = None
        del server
        gc.collect()
        await turns()
        seen: list[object] = [list(client.events), client.transport.is_closing()]
        client.transport.write(b"x") if state != "half-closed" else None
        await turns()
        listening.close()
        waited = asyncio.ensure_future(outcome(listening.wait_closed()))
        await turns()
        seen.append(waited.done())
        client.transport.close()
        if held:
            held.close()
        await turns()
        waited.cancel()
        return seen, client.events

    program.__name__ = f"dropped_{state}"
    return program


async def ends_of_streams_are_dropped() -> object:
    """The reader alone, while data arrive; then the writer, too."""
    said = messages()
    got: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"unheard")
        got.append(await reader.read())
        writer.close()

    listening, reader, writer = await streams(serve)
    transport: Any = writer.transport
    del reader
    gc.collect()
    await turns()
    writer.write(b"heard")
    await turns()
    seen: list[object] = [transport.is_closing(), list(got)]
    del writer
    gc.collect()
    await turns()
    seen += [transport.is_closing(), list(got)]
    transport.close()
    await turns()
    listening.close()
    return seen, said


PROGRAMS: list[Program] = [
    extra_information,
    addresses_of_ipv6,
    *(half_close(answer) for answer in (None, False, True, 0, 1, "text")),
    calls_after_close,
    data_of_all_types,
    reading_is_paused,
    end_of_file_and_abort_while_paused,
    abort_with_unread_data,
    sockets_that_do_not_linger,
    *(
        reaction(event, react)
        for event in ("made", "data", "eof", "lost")
        for react in (close, abort, pause, fail)
    ),
    peer_that_has_closed_is_written_to,
    buffered_protocol,
    *(drains(end) for end in ("close", "abort", "reset")),
    blocked_drain,
    writer_is_waited_for,
    reads_of_streams,
    handler_fails_or_returns,
    methods_of_servers,
    server_is_left_with_an_idle_client,
    *(ends_clients(name) for name in ("close_clients", "abort_clients")),
    factories_that_fail,
    connections_that_are_refused,
    connecting_is_cancelled(),
    connecting_is_cancelled(happy_eyeballs_delay=0.25),
    server_closes_as_a_client_connects,
    *(dropped(state) for state in ("reading", "paused", "unread", "half-closed", "held")),
    ends_of_streams_are_dropped,
    datagrams,
    datagram_endpoints_that_cannot_be_made,
    datagram_endpoint_is_cancelled,
]


def really(program: Program) -> object:
    """Run a program on asyncio's own loop."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(program())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sockets that asyncio itself loses
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # and their servers
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: str(program.__name__))
def test_simulation_shows_what_asyncio_shows(program: Program) -> None:
    """The same events at each end, the same answers and errors."""
    if program is addresses_of_ipv6 and not socket.has_ipv6:
        pytest.skip("needs IPv6")

    simulated = simulate(program, network=Network(cut=False), leaks=False).value

    assert simulated == really(program)


CALLS: dict[str, Callable[[Any], object]] = {
    "write": lambda transport: transport.write(b"abc"),
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "pause": lambda transport: transport.pause_reading(),
    "resume": lambda transport: transport.resume_reading(),
    "write_eof": lambda transport: transport.write_eof(),
}


def script(seed: int) -> Program:
    """Make a program of a few random calls at both ends, some of them in one iteration."""
    chance = Random(seed)
    answers = [chance.choice([None, True]) for _ in range(2)]
    calls = [
        (chance.randrange(2), chance.choice([*CALLS]), chance.random() < 0.7)
        for _ in range(chance.randrange(2, 9))
    ]

    async def program() -> object:
        listening, *ends = await connected(*map(Observer, answers))
        seen: list[object] = [calls]
        for end, call, waits in calls:
            seen.append(attempt(CALLS[call], ends[end].transport))
            await turns(12 * waits)
        await turns()
        seen += [(list(each.events), each.transport.is_closing()) for each in ends]
        for each in ends:
            each.transport.abort()
        await turns()
        listening.close()
        return seen

    return program


@pytest.mark.parametrize("seed", range(40))
def test_simulation_shows_what_asyncio_shows_of_random_scripts(seed: int) -> None:
    """The same events and errors, whatever is called in which order."""
    program = script(seed)

    assert simulate(program, network=Network(cut=False), leaks=False).value == really(program)


@pytest.mark.slow
def test_simulation_shows_what_asyncio_shows_of_many_random_scripts() -> None:
    """The same for two thousand others."""
    for seed in range(1000, 3000):
        test_simulation_shows_what_asyncio_shows_of_random_scripts(seed)
