"""Raw peers: the client's end of a connection, without a protocol of its own."""

# A peer sends the bytes that it is given and collects those that arrive. It has no task, and
# `SocketPeer` does not use the server's loop at all: every task of that loop is the server's, so
# that nothing has to be subtracted from its counts.

from __future__ import annotations

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from muxleak import Scope

CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # with SO_LINGER: close by RST, at once


class Peer(ABC):
    """The client's end of a connection to the server under test.

    Attributes:
        scope: counts everything that the connection causes in the server.
        ended: True once the server has closed its direction, or the connection is lost.
        finished: True once the peer has closed its own direction.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.ended = False
        self.finished = False

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send ``data``; drop it if the connection, or the peer's direction, is closed."""

    @abstractmethod
    def take(self) -> bytes:
        """Return the bytes that came since the last call; none while stalled."""

    @abstractmethod
    def half_close(self) -> None:
        """Send FIN, and keep reading."""

    @abstractmethod
    def close(self) -> None:
        """Close both directions."""

    @abstractmethod
    def abort(self) -> None:
        """Reset the connection."""

    @abstractmethod
    def stall(self) -> None:
        """Stop reading."""

    @abstractmethod
    def resume(self) -> None:
        """Read again."""


class StreamPeer(Peer, asyncio.Protocol):
    """A peer on an asyncio transport, for the simulated network."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep the bytes for `take`."""
        self._chunks.append(data)

    def eof_received(self) -> bool:
        """Note the server's end; the peer's own direction stays open."""
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it."""
        del exc
        self.ended = True
        self._transport = None

    def send(self, data: bytes) -> None:
        """Send ``data``; drop it if the connection, or the peer's direction, is closed."""
        if self._transport is None or self._transport.is_closing() or self.finished:
            return
        self._transport.write(data)

    def take(self) -> bytes:
        """Return the bytes that came since the last call."""
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)

    def half_close(self) -> None:
        """Send FIN, and keep reading."""
        self.finished = True
        if self._transport is not None:
            # The server may have reset the connection without the loop knowing yet.
            with suppress(OSError):
                self._transport.write_eof()

    def close(self) -> None:
        """Close both directions."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def stall(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()


class SocketPeer(Peer):
    """A peer on a non-blocking socket; the kernel carries its bytes while no loop runs."""

    def __init__(self, scope: Scope, sock: socket.socket) -> None:
        super().__init__(scope)
        sock.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._unsent = b""
        self._stalled = False

    def send(self, data: bytes) -> None:
        """Send as much as the kernel takes now, and the rest with the next call."""
        if self.finished:
            return
        data = self._unsent + data
        try:
            self._unsent = data[self._sock.send(data) :] if data else b""
        except BlockingIOError:
            self._unsent = data
        except OSError:
            self._unsent = b""
            self.ended = True

    def take(self) -> bytes:
        """Return the bytes that the kernel has, after sending the rest of earlier calls."""
        if self._sock.fileno() < 0:
            return b""
        if self._unsent:
            self.send(b"")
        chunks: list[bytes] = []
        try:
            while not self._stalled and not self.ended:
                chunks.append(self._sock.recv(CHUNK))
                self.ended = not chunks[-1]
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        return b"".join(chunks)

    def half_close(self) -> None:
        """Send FIN, and keep reading."""
        self.finished = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True

    def close(self) -> None:
        """Close, after reading: with unread bytes the kernel would send RST instead of FIN."""
        self._stalled = False
        self.take()
        self._sock.close()

    def abort(self) -> None:
        """Reset the connection."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._sock.close()

    def stall(self) -> None:
        """Stop reading."""
        self._stalled = True

    def resume(self) -> None:
        """Read again."""
        self._stalled = False
