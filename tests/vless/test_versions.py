"""The historical versions: which answer each gives to which question.

The table is that of the upstream sources; what the answers amount to is checked by sequences.
"""

from __future__ import annotations

import inspect

import pytest

from muxleak_vless import versions
from muxleak_vless.bugs.cleanup_runs_twice.buggy import MayCleanUp
from muxleak_vless.bugs.end_forgets_stream.buggy import PeerEnded
from muxleak_vless.bugs.handler_must_close.buggy import HandlerEnded
from muxleak_vless.bugs.handler_sees_wrong_context.buggy import HandlerContext
from muxleak_vless.bugs.id_taken_for_stream.buggy import Owns
from muxleak_vless.bugs.late_removal.buggy import Forget
from muxleak_vless.bugs.live_id_reused.buggy import IdReused
from muxleak_vless.bugs.long_write_breaks_framing.buggy import Split
from muxleak_vless.bugs.malformed_frame_orphans.buggy import Malformed
from muxleak_vless.bugs.new_after_cleanup.buggy import Admit
from muxleak_vless.bugs.no_limit_of_streams.buggy import Full
from muxleak_vless.bugs.padding_kills_connection.buggy import Tolerates
from muxleak_vless.bugs.reader_blocked_by_stream.buggy import Deliver
from muxleak_vless.bugs.server_end_unheard.buggy import EndLink
from muxleak_vless.bugs.silent_peer.buggy import Idle
from muxleak_vless.bugs.task_per_unknown_frame.buggy import Unknown
from muxleak_vless.bugs.watcher_outlives_connection.buggy import WatchedContext
from muxleak_vless.bugs.write_without_limit.buggy import Stalled
from muxleak_vless.lifecycle import Lifecycle
from muxleak_vless.versions import VERSIONS, CleansUpInWatcherOnly, NoWatcher, ReleasesTable

QUESTIONS = sorted(name for name in vars(Lifecycle) if not name.startswith("_"))
COMMON: dict[str, type[Lifecycle]] = {
    "admit": Admit,
    "deliver": Deliver,
    "end_link": EndLink,
    "forget": Forget,
    "full": Full,
    "handler_ended": HandlerEnded,
    "id_reused": IdReused,
    "idle": Idle,
    "malformed": Malformed,
    "owns": Owns,
    "peer_ended": PeerEnded,
    "release": ReleasesTable,
    "split": Split,
    "stalled": Stalled,
    "tolerates": Tolerates,
    "unknown": Unknown,
}
# Who is watched, who cleans up when the receive loop ends, how often, and what handlers are given:
# columns of the table; None is the right answer.
TABLE: dict[str, tuple[type[Lifecycle] | None, ...]] = {
    "V0": (NoWatcher, CleansUpInWatcherOnly, None, HandlerContext),
    "V1": (WatchedContext, None, MayCleanUp, HandlerContext),
    "P-A": (NoWatcher, None, MayCleanUp, HandlerContext),
    "P-B": (None, None, MayCleanUp, HandlerContext),
    "P-C": (None, None, None, None),
    "V2": (None, CleansUpInWatcherOnly, MayCleanUp, None),
}
COLUMNS = ("watched_context", "receive_ended", "may_clean_up", "handler_context")


def answers(version: type[Lifecycle]) -> dict[str, type]:
    """Return the class that answers each question, by the order of method resolution."""
    return {
        question: next(cls for cls in version.__mro__ if question in vars(cls))
        for question in QUESTIONS
    }


@pytest.mark.parametrize("name", TABLE)
def test_versions_answer_as_their_sources_do(name: str) -> None:
    """Each version gives the wrong answers of its commit, the common ones, and no others."""
    expected = dict.fromkeys(QUESTIONS, Lifecycle) | COMMON
    expected |= {
        question: cls for question, cls in zip(COLUMNS, TABLE[name], strict=True) if cls is not None
    }

    assert answers(VERSIONS[name]) == expected


def test_versions_reference_is_right_about_everything() -> None:
    """The reference overrides nothing."""
    assert VERSIONS["REF"] is Lifecycle


def test_versions_are_all_named() -> None:
    """Every version is found by its documented name, oldest first, and nothing else is."""
    assert list(VERSIONS) == [*TABLE, "REF"]


def test_versions_are_compositions() -> None:
    """A version has no code of its own, and an answer answers one question."""
    composed = set(VERSIONS.values()) | {versions.SingVmess}
    for cls in vars(versions).values():
        if inspect.isclass(cls) and issubclass(cls, Lifecycle) and cls is not Lifecycle:
            own = [name for name in vars(cls) if not name.startswith("_")]

            assert len(own) == (0 if cls in composed else 1), cls
