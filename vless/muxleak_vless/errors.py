"""What vless raises. The type says whose fault it is, the message what was expected and found.

Two rules: bytes of the peer raise `ProtocolError` and nothing else, whatever they are;
values of the caller that cannot be put on the wire raise a plain `ValueError`.
"""

from __future__ import annotations


class VlessError(Exception):
    """Base of everything vless raises on its own account."""


class ProtocolError(VlessError, ValueError):
    """The peer sent what the protocol does not allow.

    All four arguments are the exception's `args`, so that it can be pickled and copied.

    Attributes:
        where: The offending field, for instance "frame metadata length".
        offset: Its first byte, counted in bytes since the decoder began.
        expected: What the protocol allows there.
        found: What was there.
    """

    def __init__(self, where: str, offset: int, expected: str, found: str) -> None:
        super().__init__(where, offset, expected, found)
        self.where = where
        self.offset = offset
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"{self.where} at byte {self.offset}: expected {self.expected}, got {self.found}"


class HeaderError(ProtocolError):
    """The request or response header that opens a connection is malformed."""


class FrameError(ProtocolError):
    """A mux.cool frame is malformed; framing is lost, so it is fatal for the connection."""


class PacketError(ProtocolError):
    """A length-framed UDP packet is malformed."""


class TruncatedError(ProtocolError):
    """The stream ended inside a header, frame or packet instead of between two."""

    @classmethod
    def of_field(cls, where: str, offset: int, size: int, at_hand: int) -> TruncatedError:
        """The field `where` takes `size` bytes, of which only `at_hand` came."""
        return cls(where, offset, f"{size} bytes", f"end of stream after {at_hand}")
