"""Request headers and mux frames that a server must refuse, each wrong in one way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless import Address
from muxleak_vless.header import Addons, Command, Request, encode_request

if TYPE_CHECKING:
    from uuid import UUID

# Unknown status; unknown network, and unknown address type, in a New for stream 1; metadata of less
# than 4 bytes, and of more than 512; a domain that is longer than the metadata.
_JUNK = {
    "status": "0004 0001 0500",
    "network": "000c 0001 0100 03 0050 01 7f000001",
    "address": "000c 0001 0100 01 0050 04 7f000001",
    "short": "0003 0001 02",
    "long": "0201 0001 0200",
    "domain": "000a 0001 0100 01 0050 02 0b 65",
}
_WHOLE = bytes.fromhex("000c 0063 0100 01 0050 01 7f000001")


def junk(what: str) -> bytes:
    """Return a mux frame that is fatal for its connection; if it names a stream, stream 1."""
    return bytes.fromhex(_JUNK[what])


def partial(size: int) -> bytes:
    """Return the first ``size`` bytes of a frame, at most all but its last."""
    return _WHOLE[: min(size, len(_WHOLE) - 1)]


def bad_header(what: str, user: UUID) -> bytes:
    """Return a request header that the server must refuse."""
    target = Address.of("127.0.0.1", 80)
    good = encode_request(Request(user, Command.TCP, target))
    if what == "version":
        return b"\x01" + good[1:]
    if what == "user":
        return good[:1] + bytes(16) + good[17:]
    if what == "flow":
        return encode_request(Request(user, Command.TCP, target, Addons("xtls-rprx-vision")))
    if what == "command":
        return encode_request(Request(user, 5, target))
    if what == "address":
        return good[:21] + b"\x09" + good[22:]
    return b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
