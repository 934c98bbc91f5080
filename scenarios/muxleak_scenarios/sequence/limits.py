"""The limits of every server under test."""

from muxleak_vless import Limits

# Small, so that a sequence of a few steps reaches each of them: `decoder.SIZES` has sizes below and
# above `inbox_bytes`, and a connection passes `max_streams` with its fifth stream. The client model
# reads them too: it excuses a stream beyond `max_streams`, and a connection that is owed so many
# bytes that the server may give it up. Times are virtual seconds; `targets.tcp.SCALED` has those
# that a sequence waits for on a real clock. `idle_seconds` is far above `Target.horizon` and the
# others are below it (the header's apart), so that settling lets every limit expire but those that
# end the idle.
LIMITS = Limits(
    header_seconds=60,
    idle_seconds=3600,
    write_seconds=1,
    stall_seconds=1,
    close_seconds=1,
    dial_seconds=1,
    inbox_bytes=256,
    unread_bytes=400,
    backlog_bytes=4096,
    max_streams=4,
)
