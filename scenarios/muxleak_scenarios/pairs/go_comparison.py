"""Compares the tasks that each historical version leaves with the goroutines measured in Go."""

# The claim of the versions (`muxleak_vless.versions`) is that they are the originals: on every
# ending, a version in Python leaves as many tasks as its original leaves goroutines. That can be
# compared because every goroutine of the original session is one task here, with the same waits.
#
# The figures in `Ending.go` are goroutines left per connection, over loopback TCP. They were
# measured on sing-vmess, compiled at the commit of each version: V0 is 9b63475, V1 d70afe4 to
# v0.1.12, V2 8cd5f17 (v0.1.13). P-A is V1 with the watcher deleted and P-B is V1 with a deferred
# cancel; both were compiled likewise. V2 with destinations was measured on sing-box 1.12.10,
# 1.13.21 and 1.14.4, which have that session. They leave the same, but for "End to a silent
# destination": 1.13.0 to 1.14.1 cut a stream when one direction ends, so 1.13.21 leaves none. P-C
# exists only as a description, so it has no figure. REF is ours, and must leave nothing.
#
# The moment of counting (`Ending.after`) matters as much as the ending: V1's watcher is left when
# the connection has closed and gone when the server's context has ended, and V2's orphaned stream
# stays. A sequence without a figure is still in the table, since REF must be clean there, too.

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from muxleak_scenarios.sequence.steps import Sequence
from muxleak_scenarios.targets.run import run_sequence
from muxleak_scenarios.targets.simulated import SimTarget
from muxleak_vless import Context
from muxleak_vless.versions import VERSIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from muxleak_scenarios.sequence.properties import SequenceOutcome
    from muxleak_scenarios.targets.target import Target
    from muxleak_vless import Lifecycle


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A way for a connection to end.

    Attributes:
        name: as the table shows it.
        sequence: the steps, in notation.
        go: goroutines left in Go, by version, where they were measured.
        after: the moment of counting: "last step" (nothing closed yet), "close" (all connections
            closed), or "server end" (the server's context ended, too).
        cancellable: False if the server's context cannot be ended.
    """

    name: str
    sequence: str
    go: Mapping[str, int]
    after: str = "close"
    cancellable: bool = True


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One cell of the table: a version on an ending.

    Attributes:
        version: a key of `VERSIONS`.
        ending: the name of the ending.
        sequence: its steps.
        after: its moment of counting.
        python: tasks left.
        go: goroutines left; None where they were not measured.
    """

    version: str
    ending: str
    sequence: str
    after: str
    python: int
    go: int | None

    @property
    def equal(self) -> bool | None:
        """True if Python leaves as many as Go; None where Go was not measured."""
        return None if self.go is None else self.python == self.go

    @property
    def holds(self) -> bool:
        """False if Python differs from Go, or the reference leaves anything."""
        return self.equal is not False and not (self.version == "REF" and self.python)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "equal": self.equal}


_FIXED = {"P-A": 0, "P-B": 0, "V2": 0}
ENDINGS = (
    # The reported bug: V1's watcher waits for the service's context, and stays whatever ends the
    # connection.
    Ending(
        name="peer EOF", sequence="a:open a:new:1:echo+5 a:close", go={"V0": 1, "V1": 1, **_FIXED}
    ),
    Ending(
        name="peer EOF after End",
        sequence="a:open a:new:1:echo+5 a:end:1 a:close",
        go={"V0": 0, "V1": 1, "V2": 0},
    ),
    Ending(
        name="peer EOF, three streams",
        sequence="a:open a:new:1:echo+5 a:new:2:echo+5 a:new:3:echo+5 a:close",
        go={"V1": 1, "V2": 0},
    ),
    Ending(name="peer EOF, no stream", sequence="a:open a:close", go={}),
    Ending(
        name="peer EOF, server end",
        sequence="a:open a:new:1:echo+5 a:close",
        after="server end",
        go={"V1": 0},
    ),
    # V1 starts its watcher only if the parent can be cancelled (in Go: `Done()` is not nil).
    Ending(
        name="peer EOF, parent that cannot be cancelled",
        sequence="a:open a:new:1:echo+5 a:close",
        cancellable=False,
        go={"V1": 0, "V2": 0},
    ),
    Ending(name="peer reset", sequence="a:open a:new:1:echo a:abort", go={}),
    Ending(name="bad frame", sequence="a:open a:new:1:echo a:junk:status", go={}),
    # The originals put the new stream into the table before they check the frame, so no table has
    # the old one when the connection is cleaned up.
    Ending(
        name="malformed New on an id in use, server end",
        sequence="a:open a:new:1:echo a:junk:network",
        after="server end",
        go={"V1": 1, "P-A": 1, "P-B": 1, "V2": 1},
    ),
    Ending(name="truncated frame", sequence="a:open a:new:1:echo a:cut+5 a:close", go={}),
    # The receive loop waits in a read that the server's end does not wake.
    Ending(
        name="cancel, peer stays",
        sequence="a:open a:new:1:echo cancel",
        after="last step",
        go={"P-A": 2, "V2": 1},
    ),
    # The regression of the committed fix: V2 cleans up only in the watcher, which runs once, so a
    # stream that is opened afterwards is never released. V1 cleans up at the close as well.
    Ending(
        name="cancel-New-close",
        sequence="a:open cancel a:new:1:echo a:close",
        go={"V1": 0, "P-A": 0, "P-B": 0, "V2": 1},
    ),
    Ending(name="handler closes first", sequence="a:open a:new:1:close a:close", go={}),
    Ending(
        name="handler returns without closing",
        sequence="a:open a:new:1:return+7 a:close",
        go={},
    ),
    # The stream stays in the table, and the receive loop blocks in a write that nobody reads.
    Ending(
        name="handler returns without closing, server end",
        sequence="a:open a:new:1:return+7 a:close",
        after="server end",
        go={"V1": 0, "P-A": 1, "V2": 0},
    ),
    Ending(
        name="New behind a deaf handler, cancel, close",
        sequence="a:open a:new:1:deaf+5 a:new:2:deaf+5 cancel a:close",
        go={"V1": 1, "V2": 1},
    ),
    Ending(
        name="handler waits for its context only",
        sequence="a:open a:new:1:deaf a:close",
        go={},
    ),
    # The second New replaces the first stream in the table, and nothing can end the first one any
    # more. With destinations a stream is a relay of two tasks, so each replaced stream leaves two.
    Ending(
        name="live id reuse",
        sequence="a:open a:new:5:echo a:new:5:echo a:close",
        after="server end",
        go={"V1": 1, "P-A": 1, "P-B": 1, "V2": 1},
    ),
    Ending(
        name="live id reuse, server still running",
        sequence="a:open a:new:5:echo a:new:5:echo a:close",
        go={"V1": 2, "V2": 1},
    ),
    Ending(
        name="live id reuse and End, server still running",
        sequence="a:open a:new:5:echo a:new:5:echo a:end:5 a:close",
        go={"V1": 2, "V2": 1},
    ),
    Ending(
        name="live id reuse, two destinations",
        sequence="a:open a:new:5:@echo+5 a:new:5:@echo+5 a:close",
        go={"V2": 2},
    ),
    Ending(
        name="live id reuse, four destinations",
        sequence="a:open a:new:5:@echo+5 a:new:5:@echo+5 a:new:5:@echo+5 a:new:5:@echo+5 a:close",
        go={"V2": 6},
    ),
    Ending(
        name="live id reuse and End, two destinations",
        sequence="a:open a:new:5:@echo+5 a:new:5:@echo+5 a:end:5 a:close",
        go={"V2": 2},
    ),
    Ending(
        name="unknown frames, replies unread",
        sequence="a:open a:stall a:data:9+5 a:data:9+5 a:data:9+5 a:close",
        go={"V2": 0},
    ),
    Ending(
        name="id reused after End",
        sequence="a:open a:new:5:late a:end:5 a:new:5:echo a:close",
        go={"V2": 0},
    ),
    # End removes the stream from the table while its other direction waits for the destination.
    Ending(
        name="End to a silent destination",
        sequence="a:open a:new:5:@silent+5 a:end:5 a:close",
        go={"V2": 1},
    ),
    Ending(
        name="End to a silent destination, server end",
        sequence="a:open a:new:5:@silent+5 a:end:5 a:close",
        after="server end",
        go={"V1": 1, "V2": 1},
    ),
    # The layer above the session closes the stream that it has served, or could not serve.
    Ending(
        name="destination refuses",
        sequence="a:open a:new:5:@refuse+5 a:data:5+5 a:close",
        go={"V2": 0},
    ),
    Ending(
        name="destination closes first",
        sequence="a:open a:new:5:@close+5 a:data:5+5 a:close",
        go={"V2": 0},
    ),
    Ending(
        name="destination resets",
        sequence="a:open a:new:5:@reset+5 a:data:5+5 a:close",
        go={"V2": 0},
    ),
    Ending(
        name="destination that never answers a dial",
        sequence="a:open a:new:5:@hang+5 a:close",
        go={"V2": 0},
    ),
    Ending(
        name="silent destination without End, server end",
        sequence="a:open a:new:5:@silent+5 a:close",
        after="server end",
        go={"V1": 0, "V2": 0},
    ),
    Ending(
        name="several streams write at once",
        sequence="a:open a:new:1:bulk~0 a:new:2:bulk~0 a:new:3:bulk a:close",
        go={},
    ),
    Ending(
        name="ids to the last and round again, server end",
        sequence="a:open a:new:1:echo a:new:65535:echo a:new:0:echo a:new:1:echo a:close",
        after="server end",
        go={},
    ),
    Ending(
        name="deaf handler among others",
        sequence="a:open a:new:1:deaf+5 a:new:2:echo+5 a:new:3:echo+5 a:close",
        go={},
    ),
    Ending(
        name="End while the handler closes",
        sequence="a:open a:new:1:close~0 a:end:1 a:new:2:close~1 a:end:2 a:new:3:close~2 a:end:3 "
        "a:close",
        go={},
    ),
    Ending(
        name="EOF and cancel at once",
        sequence="a:open a:new:1:echo a:close~0 cancel",
        go={},
    ),
    Ending(
        name="bad frame and cancel at once",
        sequence="a:open a:new:1:echo a:junk:status~0 cancel",
        go={},
    ),
    Ending(
        name="beginnings cut by FIN and RST",
        sequence="a:open a:new:1:echo+5 a:cut+9 a:close b:connect b:header+7 b:abort "
        "c:open c:new:1:echo c:abort",
        go={},
    ),
    Ending(
        name="forty streams, one after the other",
        sequence=f"a:open {'a:new:1:echo+5 a:end:1 ' * 40}a:close",
        go={},
    ),
    Ending(
        name="cancel, half a header, idle and deaf peer stay",
        sequence="a:connect a:header+7 b:open b:new:1:echo c:open c:stall c:new:1:flood cancel",
        after="last step",
        go={},
    ),
)
"""The endings of the history in its order, then endings that were not measured in Go."""


def compare(progress: Callable[[int], None] | None = None) -> list[VersionRow]:
    """Run every version on every ending; ``progress`` is called with the number of rows so far."""
    rows: list[VersionRow] = []
    for ending in ENDINGS:
        for name, lifecycle in VERSIONS.items():
            rows.append(_row(ending, name, lifecycle()))
            if progress is not None:
                progress(len(rows))
    return rows


def _row(ending: Ending, version: str, lifecycle: Lifecycle) -> VersionRow:
    target: Callable[[Lifecycle], Target] = SimTarget
    if not ending.cancellable:
        target = partial(SimTarget, context=Context.background())
    outcome = run_sequence(Sequence.parse(ending.sequence), lifecycle, target)
    python = _MOMENTS[ending.after](outcome)
    go = ending.go.get(version)
    return VersionRow(version, ending.name, ending.sequence, ending.after, python, go)


_MOMENTS: dict[str, Callable[[SequenceOutcome], int]] = {
    "last step": lambda outcome: outcome.tasks,
    "close": lambda outcome: outcome.left,
    "server end": lambda outcome: outcome.left_after_end,
}
