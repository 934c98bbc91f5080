"""The historical versions of the mux session, each a composition of wrong answers.

V0, V1 and V2 are sing-vmess `9b63475`, `d70afe4` and `8cd5f17`. P-A is V1 with the watcher deleted;
P-B and P-C are the two fixes proposed in sing-box issue #2421.
"""

# Each class lists the questions that its version answers wrongly, and nothing else. An answer that
# a pair of `muxleak_vless.bugs` is about is its buggy variant; the others are defined here.
#
# A version is a session. The layer above it is sing-box's own, and closes each stream that it has
# served, also if the dial fails; here that is `Outbound`. So a version that is served to a real
# client leaves what sing-box leaves. (By its source, sing-box 1.10, which had V1, did not close the
# stream of a failed dial.)
#
# The first base that overrides a question wins (method resolution order), so the answers of one
# version stand before `SingVmess`, which holds the answers that all versions share.

from __future__ import annotations

from typing import TYPE_CHECKING

from muxleak_vless.bugs.cleanup_runs_twice import buggy as cleanup_runs_twice
from muxleak_vless.bugs.end_forgets_stream import buggy as end_forgets_stream
from muxleak_vless.bugs.handler_must_close import buggy as handler_must_close
from muxleak_vless.bugs.handler_sees_wrong_context import buggy as handler_sees_wrong_context
from muxleak_vless.bugs.id_taken_for_stream import buggy as id_taken_for_stream
from muxleak_vless.bugs.late_removal import buggy as late_removal
from muxleak_vless.bugs.live_id_reused import buggy as live_id_reused
from muxleak_vless.bugs.long_write_breaks_framing import buggy as long_write_breaks_framing
from muxleak_vless.bugs.malformed_frame_orphans import buggy as malformed_frame_orphans
from muxleak_vless.bugs.new_after_cleanup import buggy as new_after_cleanup
from muxleak_vless.bugs.no_limit_of_streams import buggy as no_limit_of_streams
from muxleak_vless.bugs.padding_kills_connection import buggy as padding_kills_connection
from muxleak_vless.bugs.reader_blocked_by_stream import buggy as reader_blocked_by_stream
from muxleak_vless.bugs.server_end_unheard import buggy as server_end_unheard
from muxleak_vless.bugs.silent_peer import buggy as silent_peer
from muxleak_vless.bugs.task_per_unknown_frame import buggy as task_per_unknown_frame
from muxleak_vless.bugs.watcher_outlives_connection import buggy as watcher_outlives_connection
from muxleak_vless.bugs.write_without_limit import buggy as write_without_limit
from muxleak_vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muxleak_vless.context import Context
    from muxleak_vless.session import MuxSession


class ReleasesTable(Lifecycle):
    """The cleanup closes the pipes of the streams in the table; it knows no handlers."""

    def release(self, session: MuxSession, cause: BaseException) -> None:
        """Fail the streams of the table."""
        for stream in session.streams.values():
            stream.fail(cause)


class NoWatcher(Lifecycle):
    """There is no watcher."""

    def watched_context(self, session: MuxSession) -> Context | None:
        """Return None."""
        return None


class CleansUpInWatcherOnly(Lifecycle):
    """The end of the receive loop ends the connection's context; only the watcher cleans up."""

    def receive_ended(self, session: MuxSession, cause: BaseException) -> None:
        """Wake the watcher, if there is one."""
        session.context.cancel(cause)


class SingVmess(
    reader_blocked_by_stream.Deliver,
    handler_must_close.HandlerEnded,
    server_end_unheard.EndLink,
    ReleasesTable,
    new_after_cleanup.Admit,
    live_id_reused.IdReused,
    id_taken_for_stream.Owns,
    late_removal.Forget,
    end_forgets_stream.PeerEnded,
    malformed_frame_orphans.Malformed,
    padding_kills_connection.Tolerates,
    long_write_breaks_framing.Split,
    no_limit_of_streams.Full,
    task_per_unknown_frame.Unknown,
    write_without_limit.Stalled,
    silent_peer.Idle,
):
    """The wrong answers that all versions share."""


class V0(NoWatcher, CleansUpInWatcherOnly, handler_sees_wrong_context.HandlerContext, SingVmess):
    """`9b63475` (2022-09-16): no watcher, so no cleanup at all."""


class V1(
    watcher_outlives_connection.WatchedContext,
    cleanup_runs_twice.MayCleanUp,
    handler_sees_wrong_context.HandlerContext,
    SingVmess,
):
    """`d70afe4` (2022-09-23) to v0.1.12: the bug of issue #2421."""


class PA(
    NoWatcher, cleanup_runs_twice.MayCleanUp, handler_sees_wrong_context.HandlerContext, SingVmess
):
    """V1 with the watcher deleted: a user's temporary fix."""


class PB(cleanup_runs_twice.MayCleanUp, handler_sees_wrong_context.HandlerContext, SingVmess):
    """The first proposed fix: a context per connection and a deferred cancel."""


class PC(SingVmess):
    """The second proposed fix: one explicit cleanup, the context as fallback, idempotent."""


class V2(CleansUpInWatcherOnly, cleanup_runs_twice.MayCleanUp, SingVmess):
    """`8cd5f17` = v0.1.13 (2024-12-30), the fix as committed: cleanup only in the watcher."""


VERSIONS: Mapping[str, type[Lifecycle]] = {
    "V0": V0,
    "V1": V1,
    "P-A": PA,
    "P-B": PB,
    "P-C": PC,
    "V2": V2,
    "REF": Lifecycle,
}
"""By the name used in the documentation; ``REF`` is the reference."""
