"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="the receive loop waits for a reader of a stream, and the close waits for the loop",
    fault="abandoned hand-off",
    origins=(Origin(project="go-mplex", reference="commit 030f52e"),),
    roles=(
        "receive loop: waits for a frame, then for a place in the stream's queue",
        "close: waits for the receive loop",
    ),
    minimal="open new:1 data:1 data:1",
    fails=("tasks", "close"),
)
