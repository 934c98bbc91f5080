"""The client against a scripted server and a real one: proper use, misuse, and its own end."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from muxleak import settle
from muxleak_vless.address import Address, NetworkType
from muxleak_vless.client import MAX_ID, Client
from muxleak_vless.errors import (
    FrameError,
    HeaderError,
    LinkLost,
    PeerClosed,
    StreamClosed,
    StreamReplaced,
    StreamReset,
    TruncatedError,
)
from muxleak_vless.frames import Frame, FrameDecoder, encode_frame
from muxleak_vless.header import Command, Request, RequestDecoder, encode_request
from muxleak_vless.packets import encode_packet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from uuid import UUID

    from muxleak_vless import Handler, Inbound
    from muxleak_vless.errors import ProtocolError

    Server = tuple[Inbound, tuple[str, int]]
    Serve = Callable[..., Awaitable[Server]]

TARGET = Address.of("127.0.0.1", 80)
RESPONSE = b"\x00\x00"
pytestmark = pytest.mark.asyncio


class Script:
    """A server that says what the test says."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def listen(self) -> tuple[str, int]:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._task = asyncio.current_task()
        self._writer = writer
        try:
            while data := await reader.read(65536):
                self.received += data
        except ConnectionError:
            pass
        self.ended = True

    async def say(self, *what: Frame | bytes) -> None:
        """Send frames or bytes."""
        assert await settle(limit=5, until=lambda: self._writer is not None)
        assert self._writer is not None
        for each in what:
            self._writer.write(each if isinstance(each, bytes) else encode_frame(each))
        await self._writer.drain()

    def frames(self) -> list[Frame]:
        """Decode what has come after the header."""
        header, decoder = RequestDecoder(), FrameDecoder()
        header.receive_data(bytes(self.received))
        decoder.receive_data(header.trailing)
        return list(iter(decoder.next_frame, None))

    async def end(self) -> None:
        """End our direction."""
        assert self._writer is not None
        self._writer.write_eof()

    async def close(self) -> None:
        """Close and stop."""
        assert self._server is not None
        self._server.close()
        if self._writer is not None:
            self._writer.close()
        if self._task is not None:
            self._task.cancel()


@pytest_asyncio.fixture
async def script(all_gone: Callable[[], Awaitable[None]]) -> AsyncIterator[Script]:
    """A scripted server."""
    script = Script()
    yield script
    await script.close()
    await all_gone()


async def mux(script: Script, uuid: UUID, *, record: bool = False) -> Client:
    """Connect to the script for Mux."""
    return await Client.connect(await script.listen(), uuid, record=record)


async def read(client_stream: Awaitable[bytes]) -> bytes:
    """Read with a limit."""
    return await asyncio.wait_for(client_stream, 5)


# Proper use.


@pytest.mark.parametrize("command", [Command.TCP, Command.UDP, Command.MUX])
async def test_client_sends_its_header(command: Command, script: Script, uuid: UUID) -> None:
    """The first bytes are the request for the command, with a target where it has one."""
    target = None if command is Command.MUX else TARGET
    expected = encode_request(Request(uuid, command, target))
    async with await Client.connect(await script.listen(), uuid, command, target):
        assert await settle(limit=5, until=lambda: script.received == expected)


async def test_client_header_may_be_anything(script: Script, uuid: UUID) -> None:
    """The header may be replaced by any bytes, or by none."""
    async with await Client.connect(await script.listen(), uuid, header=b"") as client:
        client.send(b"GET /")
        assert await settle(limit=5, until=lambda: script.received == b"GET /")


async def test_client_bad_request_opens_no_connection(script: Script, uuid: UUID) -> None:
    """A request that cannot be written is refused before anything is connected."""
    address = await script.listen()

    with pytest.raises(ValueError, match="target"):
        await Client.connect(address, uuid, Command.TCP)

    await settle()
    assert script._writer is None


async def test_client_refused(uuid: UUID) -> None:
    """A server that cannot be reached is an `OSError`."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(bound.getsockname(), uuid)


async def test_client_tcp_reads_after_the_response(script: Script, uuid: UUID) -> None:
    """The response header, in any segments, is no payload; the rest is, to its end."""
    async with await Client.connect(await script.listen(), uuid, Command.TCP, TARGET) as client:
        for piece in (b"\x00", b"\x03", b"ab", b"cfirst"):
            await script.say(piece)
            await settle()
        assert await read(client.stream.read()) == b"first"
        await script.end()

        assert await read(client.stream.read()) == b""
        assert isinstance(await asyncio.wait_for(client.ended(), 5), PeerClosed)


async def test_client_udp_reads_packets(script: Script, uuid: UUID) -> None:
    """Packets keep their boundaries in both directions."""
    async with await Client.connect(await script.listen(), uuid, Command.UDP, TARGET) as client:
        await client.stream.write(b"question")
        await script.say(RESPONSE, encode_packet(b"one"), encode_packet(b"two"))

        assert [await read(client.stream.read()) for _ in range(2)] == [b"one", b"two"]
        expected = encode_packet(b"question")
        assert await settle(limit=5, until=lambda: script.received.endswith(expected))


async def test_client_mux_reads_its_streams(script: Script, uuid: UUID) -> None:
    """Data goes to the stream of its id, with its address; the rest is ignored."""
    async with await mux(script, uuid) as client:
        one = await client.open(TARGET, b"first")
        two = await client.open(TARGET, network=NetworkType.UDP)
        await script.say(
            RESPONSE,
            Frame.keep(2, b"b", TARGET),
            Frame.keep(9, b"for nobody"),
            bytes.fromhex("0004 0001 0400"),
            Frame.keep(1, b"a"),
            Frame.end(1),
        )

        assert await asyncio.wait_for(two.read_packet(), 5) == (b"b", TARGET)
        assert await read(one.read()) == b"a"
        assert await read(one.read()) == b""
        assert script.frames() == [
            Frame.new(1, NetworkType.TCP, TARGET, b"first"),
            Frame.new(2, NetworkType.UDP, TARGET),
        ]


async def test_client_end_with_error_raises(script: Script, uuid: UUID) -> None:
    """A stream that the server ended with an error raises; others go on."""
    async with await mux(script, uuid) as client:
        one, two = await client.open(TARGET), await client.open(TARGET)
        await script.say(RESPONSE, Frame.end(1, error=True), Frame.keep(2, b"x"))

        with pytest.raises(StreamClosed) as caught:
            await read(one.read())
        assert isinstance(caught.value.__cause__, StreamReset)
        assert await read(two.read()) == b"x"


async def test_client_close_of_a_stream_sends_end(script: Script, uuid: UUID) -> None:
    """Closing a mux stream sends End, with the error bit if asked; a second close does nothing."""
    async with await mux(script, uuid) as client:
        for error in (False, True):
            stream = await client.open(TARGET)
            stream.close(error=error)
            stream.close()
        expected = [Frame.end(1), Frame.end(2, error=True)]
        await settle(until=lambda: len(script.frames()) == 4)

        assert script.frames()[1::2] == expected
        with pytest.raises(StreamClosed):
            await stream.write(b"late")


async def test_client_close_after_the_servers_end_is_silent(script: Script, uuid: UUID) -> None:
    """A stream that the server has ended has no id to send an End for."""
    async with await mux(script, uuid) as client:
        stream = await client.open(TARGET)
        await script.say(RESPONSE, Frame.end(1))
        assert await read(stream.read()) == b""

        stream.close()
        await client.open(TARGET, stream_id=7)

        assert await settle(limit=5, until=lambda: len(script.frames()) == 2)
        assert [frame.stream_id for frame in script.frames()] == [1, 7]


async def test_client_close_of_its_only_stream_half_closes(script: Script, uuid: UUID) -> None:
    """Closing the stream of a TCP connection ends our direction."""
    async with await Client.connect(await script.listen(), uuid, Command.TCP, TARGET) as client:
        client.stream.close()

        assert await settle(limit=5, until=lambda: script.ended)


async def test_client_large_write_is_split(script: Script, uuid: UUID) -> None:
    """A large write becomes frames that fit."""
    async with await mux(script, uuid) as client:
        stream = await client.open(TARGET)
        await stream.write(bytes(200_000))
        await settle(limit=5, until=lambda: len(script.frames()) == 5)

        assert [len(frame.data or b"") for frame in script.frames()[1:]] == [65_535] * 3 + [3_395]


# Ids.


async def test_client_ids_skip_open_streams(script: Script, uuid: UUID) -> None:
    """Ids wrap around and leave out those of streams that are still open, but not id 0 alone."""
    async with await mux(script, uuid) as client:
        await client.open(TARGET)
        client._next_id = MAX_ID
        ids = [(await client.open(TARGET)).stream_id for _ in range(3)]

        assert ids == [MAX_ID, 2, 3]
        await script.say(RESPONSE, Frame.end(1))
        assert await settle(limit=5, until=lambda: 1 not in client.streams)
        client._next_id = 1
        assert (await client.open(TARGET)).stream_id == 1


async def test_client_without_free_ids_says_so(script: Script, uuid: UUID) -> None:
    """When every id has an open stream, none is taken over."""
    async with await mux(script, uuid) as client:
        stream = await client.open(TARGET)
        client.streams |= dict.fromkeys(range(MAX_ID + 1), stream)

        with pytest.raises(StreamClosed, match="no id is free"):
            await client.open(TARGET)


async def test_client_may_reuse_a_live_id(script: Script, uuid: UUID) -> None:
    """An id given by hand may be that of an open stream, whose reader is then told."""
    async with await mux(script, uuid) as client:
        old = await client.open(TARGET, stream_id=5)
        reading = asyncio.create_task(old.read())
        new = await client.open(TARGET, stream_id=5)
        await script.say(RESPONSE, Frame.keep(5, b"x"))

        assert await read(new.read()) == b"x"
        with pytest.raises(StreamClosed) as caught:
            await read(reading)
        assert isinstance(caught.value.__cause__, StreamReplaced)
        assert [frame.stream_id for frame in script.frames()] == [5, 5]


# What the server does wrong.


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (RESPONSE + encode_frame(Frame.new(1, NetworkType.TCP, TARGET)), FrameError),
        (RESPONSE + bytes.fromhex("0004 0001 0500"), FrameError),
        (b"\x01\x00", HeaderError),
        (RESPONSE + b"\x00\x04\x00", TruncatedError),
        (b"\x00", TruncatedError),
    ],
    ids=["new", "status", "version", "cut frame", "cut header"],
)
async def test_client_protocol_error_ends_its_streams(
    wire: bytes, error: type[ProtocolError], script: Script, uuid: UUID
) -> None:
    """What no server may send, a New above all, ends every stream with that cause (event 23)."""
    async with await mux(script, uuid) as client:
        stream = await client.open(TARGET)
        await script.say(wire)
        if error is TruncatedError:
            await script.end()

        assert isinstance(await asyncio.wait_for(client.ended(), 5), error)
        with pytest.raises(StreamClosed) as caught:
            await read(stream.read())
        assert caught.value.__cause__ is client.cause
        assert client.cause is not None
        assert client.cause.__traceback__ is None


async def test_client_server_that_resets(script: Script, uuid: UUID) -> None:
    """A reset ends every stream as lost; an orderly end gives each its end."""
    async with await mux(script, uuid) as client:
        stream = await client.open(TARGET)
        await script.say(RESPONSE)
        assert script._writer is not None
        sock = script._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes.fromhex("0100000000000000"))
        script._writer.transport.abort()

        assert isinstance(await asyncio.wait_for(client.ended(), 5), LinkLost)
        with pytest.raises(StreamClosed):
            await read(stream.read())


# Misuse, and the end.


async def test_client_misuse(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """Frames out of order, for unknown ids or twice are sent as they are asked for."""
    _, address = await serve(echo)
    async with await Client.connect(address, uuid, record=True) as client:
        client.send_frame(Frame.keep(7, b"nobody"))
        client.end(7)
        await client.open(TARGET, b"x", stream_id=1)
        client.end(1)
        client.end(1, error=True)
        client.half_close()

        await asyncio.wait_for(client.ended(), 5)
        assert client.frames == [
            Frame.end(7, error=True),
            Frame.keep(1, b"x"),
            Frame.end(1),
        ] or client.frames == [Frame.end(7, error=True)]


async def test_client_reset_is_seen_as_such(serve: Serve, uuid: UUID, echo: Handler) -> None:
    """After a reset the server has lost the connection, it was not closed."""
    sessions: list[object] = []
    inbound, address = await serve(echo, on_session=sessions.append)
    client = await Client.connect(address, uuid)
    await client.open(TARGET)
    assert await settle(limit=5, until=lambda: inbound.active == 1)

    client.reset()
    await client.close()

    assert await settle(limit=5, until=lambda: inbound.connections == 0)
    (session,) = sessions
    assert isinstance(session.cause, LinkLost)  # type: ignore[attr-defined]


@pytest.mark.parametrize("replaced", [False, True])
async def test_client_close_with_unread_data(
    replaced: bool,  # noqa: FBT001 - a parameter of the test
    script: Script,
    uuid: UUID,
) -> None:
    """A client that has not read what came, even for a stream it replaced, closes at once."""
    client = await mux(script, uuid)
    stream = await client.open(TARGET, stream_id=1)
    await script.say(RESPONSE, *[Frame.keep(1, bytes(60_000))] * 20)
    assert await settle(limit=5, until=lambda: bool(stream._watchers))
    if replaced:
        await client.open(TARGET, stream_id=1)

    await asyncio.wait_for(client.close(), 5)

    with pytest.raises(StreamClosed):
        await read(stream.read())


async def test_client_close_is_idempotent(script: Script, uuid: UUID) -> None:
    """Closing twice, or after the server has, is harmless."""
    client = await mux(script, uuid)
    await script.say(RESPONSE)
    await script.end()
    await asyncio.wait_for(client.ended(), 5)

    await asyncio.wait_for(client.close(), 5)
    await asyncio.wait_for(client.close(), 5)

    assert isinstance(client.cause, PeerClosed)
