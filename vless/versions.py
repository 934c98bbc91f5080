"""The historical versions of the mux session, each a composition of wrong answers.

Read each as the diary of one commit: which questions it answered wrongly, and nothing else. The
answers that a pair of `vless.bugs` is about are taken from its buggy half; the others stand here.

V0, V1 and V2 are sing-vmess `9b63475`, `d70afe4` and `8cd5f17`. P-A is V1 with the watcher deleted;
P-B and P-C are the two fixes proposed in sing-box issue #2421.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vless.bugs.cleanup_runs_twice import buggy as cleanup_runs_twice
from vless.bugs.live_id_reused import buggy as live_id_reused
from vless.bugs.new_after_cleanup import buggy as new_after_cleanup
from vless.bugs.watcher_outlives_connection import buggy as watcher_outlives_connection
from vless.lifecycle import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vless.address import Address
    from vless.context import Context
    from vless.session import MuxSession
    from vless.stream import Stream


class UnboundedDelivery(Lifecycle):
    """An unbuffered pipe: the receive loop waits for the reader, and for nothing else."""

    async def deliver(
        self, session: MuxSession, stream: Stream, data: bytes, address: Address | None
    ) -> None:
        """Wait until the handler has taken everything."""
        stream.feed(data, address)
        await stream.drained()


class HandlersMustClose(Lifecycle):
    """A handler that returns without closing its stream leaves it in the table."""

    def handler_ended(self, session: MuxSession, stream: Stream, error: Exception | None) -> None:
        """Nobody closes the stream."""


class TransportStaysOpen(Lifecycle):
    """The end of the server does not wake a receive loop that sleeps in the transport."""

    def end_link(self, session: MuxSession) -> None:
        """The caller closes the transport, once the receive loop has returned."""


class ReleasesTable(Lifecycle):
    """The cleanup closes the pipes of the streams in the table; it knows no handlers."""

    def release(self, session: MuxSession, cause: BaseException) -> None:
        """Close what the table holds."""
        for stream in session.streams.values():
            stream.fail(cause)


class HandlersGetParent(Lifecycle):
    """Handlers are given the caller's context: they do not see their connection end."""

    def handler_context(self, session: MuxSession) -> Context:
        """Return the caller's."""
        return session.parent


class NoWatcher(Lifecycle):
    """Nothing watches a context."""

    def watched_context(self, session: MuxSession) -> Context | None:
        """Return none."""
        return None


class CleansUpInWatcherOnly(Lifecycle):
    """The end of the receive loop ends the connection's context; the rest is the watcher's."""

    def receive_ended(self, session: MuxSession, cause: BaseException) -> None:
        """Wake the watcher, if there is one."""
        session.context.cancel(cause)


class SingVmess(
    UnboundedDelivery,
    HandlersMustClose,
    TransportStaysOpen,
    ReleasesTable,
    new_after_cleanup.Admit,
    live_id_reused.IdReused,
):
    """What every version has in common."""


class V0(NoWatcher, CleansUpInWatcherOnly, HandlersGetParent, SingVmess):
    """`9b63475` (2022-09-16): no watcher, so no cleanup at all."""


class V1(
    watcher_outlives_connection.WatchedContext,
    cleanup_runs_twice.MayCleanUp,
    HandlersGetParent,
    SingVmess,
):
    """`d70afe4` (2022-09-23) to v0.1.12: the bug of issue #2421."""


class PA(NoWatcher, cleanup_runs_twice.MayCleanUp, HandlersGetParent, SingVmess):
    """V1 with the watcher deleted: a user's temporary fix."""


class PB(cleanup_runs_twice.MayCleanUp, HandlersGetParent, SingVmess):
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
