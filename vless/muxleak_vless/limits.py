"""The limits of a server: how long it waits and how much it holds."""

# Every wait for a peer, a target or a handler has one of these limits, so each connection ends some
# time, whatever its peer does. Upstream has no counterpart to most: sing-vmess has no idle limit,
# no deadline on a write, and no limit on streams.

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Seconds, bytes and counts; the defaults suit a server on the internet."""

    header_seconds: float = 10.0
    """For the whole request header, from the acceptance of the connection."""
    idle_seconds: float = 300.0
    """A mux connection ends after a whole such interval without a byte (V2Ray: connIdle 300)."""
    write_seconds: float = 30.0
    """For a peer that has stopped reading, before the connection ends."""
    stall_seconds: float = 30.0
    """For a handler that does not take its stream's data, before that stream is reset."""
    close_seconds: float = 5.0
    """For a closing connection: flushing to the peer, and handlers reacting to cancellation."""
    dial_seconds: float = 10.0
    """For reaching a destination."""
    inbox_bytes: int = 256 * 1024
    """Bytes that a stream's handler has not taken, before the receive loop waits; a packet counts
    for 128 bytes more."""
    unread_bytes: int = 4 * 1024 * 1024
    """The same over all streams of a connection; `inbox_bytes` alone would allow a gigabyte."""
    backlog_bytes: int = 1024 * 1024
    """Bytes of unsent replies to a peer that does not read, before the connection ends."""
    max_streams: int = 4096
    """Streams of one connection whose handlers have not ended; further ones are refused."""
