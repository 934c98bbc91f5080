"""Clients of a server that is not ours: they send what the steps say and discard what comes."""

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
"""Where a packet goes that is not for its stream's target."""
_RESET = struct.pack("ii", 1, 0)


def encode(step: Step, address: Where) -> bytes:
    """Return the bytes of a step that sends frames; ``address`` says where a destination is."""
    verb, stream = step.verb, step.stream or 0
    data = bytes(step.size) if step.size else None
    option = 0 if data is None else DATA
    if verb in OPENING:
        network = NetworkType.TCP if verb == "new" else NetworkType.UDP
        # Streams that have the same one would be one, on whatever connections; without data there
        # is none.
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

    ``traffic`` is called for everything that comes. What cannot be sent any more is dropped.
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
        """Discard."""
        del data
        self._traffic()

    def eof_received(self) -> bool:
        """Keep our direction open until a step closes it."""
        self._traffic()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the transport."""
        del exc
        self._traffic()
        self._transport = None

    def perform(self, step: Step, address: Where) -> int:
        """Do one step; return how many bytes it sends."""
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
        """Close both directions in good order, or reset; now, even if the server does not read."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if reset:
            sock = transport.get_extra_info("socket")
            with suppress(OSError):  # It is closed already.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if reset or transport.get_write_buffer_size():
            # Without the linger option the kernel still sends what it has, and then FIN.
            transport.abort()
        else:
            transport.close()

    def _half_close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._half = True
            with suppress(OSError):  # The server has reset it, and we have not heard of it yet.
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
            # A write may find out that the server is gone.
            if self._transport is None or self._transport.is_closing() or self._half:
                return 0
            self._transport.write(piece)
        return len(data)
