"""Why a context, a connection or a stream has ended.

A cause is an exception, so that it can be raised to whoever waits, chained and logged; the first
one recorded is kept (rule: the true cause reaches the handlers and the log).
A `ProtocolError` of the wire is a cause too.
"""

from __future__ import annotations

from muxleak_vless.errors import VlessError


class Cause(VlessError):  # noqa: N818 - most causes are no errors
    """The end of something, with the reason."""


class Cancelled(Cause):
    """A context was cancelled without saying why (Go: ``context.Canceled``)."""


class ServerStopped(Cause):
    """The server ends: shutdown or reload."""


class PeerClosed(Cause):
    """The peer closed its side of the connection between two frames."""


class LinkLost(Cause):
    """The connection broke: reset, time-out of the network, or aborted by us."""


class WriteStalled(Cause):
    """The peer has not read for longer than the write limit."""


class IdleTimeout(Cause):
    """No byte in either direction for a whole idle interval."""


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
