"""Raw peers, on a transport and on sockets: the same verbs, seen from the other end."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from muxleak import Ledger, VirtualLoop, memory_pair
from muxleak_scenarios.sequence.peers import Peer, SocketPeer, StreamPeer


class Far(asyncio.Protocol):
    """Records everything that arrives."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.log: list[bytes | str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Note."""
        self.log.append(data)

    def eof_received(self) -> bool:
        """Note; stay open."""
        self.log.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note."""
        self.log.append(type(exc).__name__ if exc is not None else "lost")


class Ends:
    """A peer, its far end, and a way to let time pass between them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, peer: Peer, far: Far) -> None:
        self.loop, self.peer, self.far = loop, peer, far

    def pass_on(self) -> None:
        """Run until all sent bytes have arrived."""
        for _ in range(5):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()


@pytest.fixture(params=["transport", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Both kinds of peer, connected."""
    scope, far = Ledger().scope("peer"), Far()
    if request.param == "transport":
        with VirtualLoop() as virtual:
            peer = StreamPeer(scope)
            memory_pair(virtual, peer, far)
            ends = Ends(virtual, peer, far)
            ends.pass_on()
            yield ends
        return
    loop = asyncio.SelectorEventLoop()
    server = loop.run_until_complete(loop.create_server(lambda: far, "127.0.0.1", 0))
    sock = socket.create_connection(server.sockets[0].getsockname())
    ends = Ends(loop, SocketPeer(scope, sock), far)
    ends.pass_on()
    yield ends
    sock.close()
    far.transport.abort()
    server.close()
    ends.pass_on()
    loop.close()


def test_peer_sends_and_takes(ends: Ends) -> None:
    """Bytes go both ways, and are taken once."""
    ends.peer.send(b"one")
    ends.pass_on()
    ends.far.transport.write(b"two")
    ends.pass_on()

    assert ends.far.log == [b"one"]
    assert [ends.peer.take(), ends.peer.take()] == [b"two", b""]
    assert not ends.peer.ended


def test_peer_half_close_goes_on_reading(ends: Ends) -> None:
    """The far end receives the end and can still write."""
    ends.peer.half_close()
    ends.pass_on()
    ends.far.transport.write(b"late")
    ends.pass_on()

    assert ends.far.log == ["eof"]
    assert ends.peer.take() == b"late"


def test_peer_close_is_orderly(ends: Ends) -> None:
    """The far end receives an end, not a reset; closing again does nothing."""
    ends.far.transport.write(b"unread")
    ends.pass_on()
    ends.peer.close()
    ends.peer.close()
    ends.pass_on()

    assert ends.far.log == ["eof"]


def test_peer_abort_is_a_reset(ends: Ends) -> None:
    """The far end loses the connection with an error."""
    ends.peer.abort()
    ends.pass_on()

    assert ends.far.log == ["ConnectionResetError"]


def test_peer_sees_the_far_end(ends: Ends) -> None:
    """`ended` is set when the server has closed its direction, after its last bytes."""
    ends.far.transport.write(b"bye")
    ends.far.transport.close()
    ends.pass_on()

    assert ends.peer.take() == b"bye"
    assert ends.peer.ended


def test_peer_drops_what_it_sends_after_the_end(ends: Ends) -> None:
    """Sending and ending on a broken connection is no error."""
    ends.far.transport.abort()
    ends.pass_on()
    for _ in range(3):
        ends.peer.send(b"late")
        ends.pass_on()
    ends.peer.half_close()
    ends.peer.take()

    assert ends.peer.ended


def test_peer_that_stalls_takes_nothing_until_it_resumes(ends: Ends) -> None:
    """A stalled peer leaves the bytes where they are."""
    ends.peer.stall()
    ends.far.transport.write(b"wait")
    ends.pass_on()
    stalled = ends.peer.take()
    ends.peer.resume()
    ends.pass_on()

    assert (stalled, ends.peer.take()) == (b"", b"wait")


def test_peer_that_stalls_fills_the_far_buffers(ends: Ends) -> None:
    """More than any buffer holds stays with the writer, and comes whole after `resume`."""
    size = 16 * 1024 * 1024
    ends.peer.stall()
    ends.far.transport.write(bytes(size))
    ends.pass_on()
    left = ends.far.transport.get_write_buffer_size()
    ends.peer.resume()
    taken = 0
    while taken < size:
        ends.pass_on()
        taken += len(ends.peer.take())

    assert left
    assert taken == size


def test_socket_peer_sends_the_rest_later() -> None:
    """Bytes that the kernel does not take at once go out in order as the far end reads."""
    listener = socket.create_server(("127.0.0.1", 0))
    peer = SocketPeer(Ledger().scope("peer"), socket.create_connection(listener.getsockname()))
    far, _ = listener.accept()
    far.setblocking(False)  # noqa: FBT003 - the standard library's own signature
    data = bytes(range(256)) * 64 * 1024
    peer.send(data)
    came = bytearray()
    while len(came) < len(data):
        with suppress(BlockingIOError):
            came += far.recv(1 << 20)
        peer.take()
    for sock in (listener, far):
        sock.close()
    peer.close()

    assert bytes(came) == data
