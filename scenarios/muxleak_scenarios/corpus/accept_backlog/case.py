"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a task that hands over a new stream waits for a place only, not for the end",
    fault="abandoned hand-off",
    origins=(Origin(project="xtaci/smux", reference="commit 99c50ed"),),
    roles=(
        "receive loop: waits for frames",
        "hand-over, one for each stream: waits for a place in the accept queue",
    ),
    minimal="open new:1 new:2",
    fails=("tasks",),
)
