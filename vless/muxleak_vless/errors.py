"""The exceptions of the package: protocol errors of the peer, and causes of an end.

Bytes of the peer raise `ProtocolError` and nothing else, whatever they are. A value of the caller
that cannot be put on the wire raises a plain `ValueError`.
"""

# An end is an exception. A context, a connection and a stream end once, and each records why: a
# `Cause`, or the `ProtocolError` that ended the connection. Being an exception, the cause can be
# raised to a waiting task, chained to the error that a handler sees, and logged. The first cause
# recorded is kept. sing-vmess 8cd5f17 shows the price of the opposite: its watcher reports the
# error of the context in place of its cause, so that the close of a peer and a malformed frame
# both reach the handlers as "context canceled".
#
# A recorded cause keeps no traceback (`with_traceback(None)` where it is caught): the frames of
# the traceback hold the session, and the session holds the cause, which is a reference cycle.

from __future__ import annotations


def text_of(error: BaseException | None) -> str:
    """Return the message of an exception, or the name of its class if it has none or raises.

    A cause may be of any class, and its text may need a module or a descriptor that cannot be had.
    """
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - see above
        text = ""
    return text or type(error).__name__


class VlessError(Exception):
    """Base class of all exceptions that the package defines."""


class ProtocolError(VlessError, ValueError):
    """The peer sent bytes that the protocol does not allow.

    All four arguments are the exception's `args`, so that it can be pickled and copied.

    Attributes:
        where: The offending field, for instance "frame metadata length".
        offset: Its first byte, counted in bytes since the decoder began.
        expected: The values that the protocol allows there.
        found: The value that was there.
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


class TruncatedError(ProtocolError):
    """The stream ended inside a header, frame or packet instead of between two."""

    @classmethod
    def of_field(cls, where: str, offset: int, size: int, at_hand: int) -> TruncatedError:
        """Return the error for the field `where` of `size` bytes, of which `at_hand` came."""
        return cls(where, offset, f"{size} bytes", f"end of stream after {at_hand}")


class Cause(VlessError):  # noqa: N818 - most causes are no errors
    """Reason for the end of a context, a connection or a stream."""


class Cancelled(Cause):
    """A context was cancelled without a cause (Go: ``context.Canceled``)."""


class ServerStopped(Cause):
    """The server ends: shutdown or reload."""


class PeerClosed(Cause):
    """The peer closed its side of the connection between two frames."""


class LinkLost(Cause):
    """The connection broke: reset, time-out of the network, or aborted by us."""


class WriteStalled(Cause):
    """The peer has not read for longer than the write limit."""


class IdleTimeout(Cause):
    """No byte passed in either direction for a whole idle interval."""


class HeaderTimeout(Cause):
    """The peer did not send its request header in time."""


class Refused(Cause):
    """The request is well formed but not for this server: unknown user, flow or command."""


class StreamClosed(Cause):
    """The stream has ended on our side: closed by its handler, or with its connection."""


class StreamReset(Cause):
    """The peer ended the stream with the error bit."""


class StreamReplaced(Cause):
    """The peer opened a new stream under the same id."""


class StreamStalled(Cause):
    """The stream's handler did not take its data within the stall limit."""
