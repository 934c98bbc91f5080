"""The bounds of a server: how long it waits and how much it holds."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Seconds, bytes and counts; the defaults suit a server on the internet."""

    header_seconds: float = 10.0
    """For the whole request header, from the moment of accepting."""
    idle_seconds: float = 300.0
    """A mux connection ends after a whole such interval without a byte (V2Ray: connIdle 300)."""
    write_seconds: float = 30.0
    """For a peer that has stopped reading; then the connection ends."""
    stall_seconds: float = 30.0
    """For a handler that does not take its stream's data; then that stream is reset."""
    close_seconds: float = 5.0
    """For a closing connection: flushing to the peer, and handlers reacting to cancellation."""
    dial_seconds: float = 10.0
    """For reaching a destination."""
    inbox_bytes: int = 256 * 1024
    """Received by a stream and not yet taken by its handler, before the receive loop waits."""
    backlog_bytes: int = 1024 * 1024
    """Unsent replies to a peer that does not read, before the connection ends."""
    max_streams: int = 4096
    """Streams whose handlers have not ended, per connection."""
