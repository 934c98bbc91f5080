"""Clients of the server under test: they send the bytes of each step and discard the answers."""

# A client here has no model of the protocol. It must be able to break every rule of mux.cool, and
# an answer of an unknown server can be anything, so answers count as traffic and are not parsed.
#
# A client must not hold the server's connection open longer than the sequence says, or the hunt
# would count leaks of its own making. `HuntPeer.close` therefore ends a connection at once, also
# when the server does not read and data is still queued: `abort` drops the queue of the transport,
# and the kernel sends the data that it has, then FIN. A reset is an abort with the linger option at
# zero seconds (socket(7), SO_LINGER).

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from secrets import token_bytes
from typing import TYPE_CHECKING, cast

from muxleak_scenarios.sequence.malformed import bad_header, junk, partial
from muxleak_scenarios.sequence.steps import DRIPS, OPENING, Step
from muxleak_vless import Address, NetworkType
from muxleak_vless.frames import DATA, ERROR, Frame, FrameStatus, encode_frame
from muxleak_vless.header import Command, Request, encode_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    Where = Callable[[str, NetworkType], Address]

_ELSEWHERE = Address.of("127.0.0.1", 9)
"""Address of a packet that is not for its stream's destination."""
_RESET = struct.pack("ii", 1, 0)


def encode(step: Step, address: Where) -> bytes:
    """Return the bytes of a step that sends frames.

    Args:
        step: a step on a stream, or a malformed or partial frame.
        address: returns the address of a destination.
    """
    verb, stream = step.verb, step.stream or 0
    data = bytes(step.size) if step.size else None
    option = 0 if data is None else DATA
    if verb in OPENING:
        network = NetworkType.TCP if verb == "new" else NetworkType.UDP
        # XUDP streams with one Global ID are one stream, even on two connections, so each gets
        # its own. A New without data has none.
        global_id = token_bytes(8) if verb == "xudp" and data else None
        target = address(step.what, network)
        return encode_frame(Frame.new(stream, network, target, data, global_id))
    if verb in {"data", "packet", "keep"}:
        if data is None:
            return encode_frame(Frame(stream, FrameStatus.KEEP))
        elsewhere = _ELSEWHERE if verb == "packet" else None
        return encode_frame(Frame.keep(stream, data, elsewhere))
    if verb in {"end", "reset"}:
        option |= ERROR if verb == "reset" else 0
        return encode_frame(Frame(stream, FrameStatus.END, option, data=data))
    if verb in {"keepalive", "padding"}:
        padding = bytes(2) if verb == "padding" else b""
        return encode_frame(Frame(0, FrameStatus.KEEP_ALIVE, option, data=data, padding=padding))
    return junk(step.what) if verb == "junk" else partial(step.size)


class HuntPeer(asyncio.Protocol):
    """One connection to the server under test.

    Bytes that can no longer be sent are dropped.

    Args:
        user: the id in the request header.
        traffic: called for every event of the connection.
    """

    def __init__(self, user: UUID, traffic: Callable[[], None]) -> None:
        self._user = user
        self._traffic = traffic
        self._header = encode_request(Request(user, Command.MUX, None))
        self._drips = self._half = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Discard the bytes."""
        del data
        self._traffic()

    def eof_received(self) -> bool:
        """Keep the client's direction open until a step closes it."""
        self._traffic()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport."""
        del exc
        self._traffic()
        self._transport = None

    def perform(self, step: Step, address: Where) -> int:
        """Perform one step.

        Args:
            step: a step of this connection.
            address: returns the address of a destination.

        Returns:
            The number of bytes sent.
        """
        if self._transport is None:
            return 0
        verb = step.verb
        if verb == "drip":
            self._drips = True
        elif verb == "stall":
            self._transport.pause_reading()
        elif verb == "resume":
            self._transport.resume_reading()
        elif verb == "half":
            self._half_close()
        elif verb in {"close", "abort"}:
            self.close(reset=verb == "abort")
        elif verb in {"open", "header", "bad"}:
            return self._send(self._opening(step))
        elif verb != "connect":
            return self._send(encode(step, address))
        return 0

    def close(self, *, reset: bool = False) -> None:
        """Close both directions at once, even if the server does not read.

        Args:
            reset: True to end with RST in place of FIN.
        """
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if reset:
            sock = transport.get_extra_info("socket")
            with suppress(OSError):  # The socket is closed already.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if reset or transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    def _half_close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._half = True
            # The server may have reset the connection without the loop knowing yet.
            with suppress(OSError):
                self._transport.write_eof()

    def _opening(self, step: Step) -> bytes:
        if step.verb == "bad":
            return bad_header(step.what, self._user)
        size = step.size or len(self._header)
        data, self._header = self._header[:size], self._header[size:]
        return data

    def _send(self, data: bytes) -> int:
        dripped = min(len(data), DRIPS) if self._drips else 0
        for piece in (*(data[at : at + 1] for at in range(dripped)), data[dripped:]):
            # A write may be the first to find that the server has closed the connection.
            if self._transport is None or self._transport.is_closing() or self._half:
                return 0
            self._transport.write(piece)
        return len(data)
