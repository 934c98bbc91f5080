"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a close waits for a graceful end that cannot come while reading is paused",
    fault="silent peer",
    origins=(Origin(project="websockets", reference="issue #1555, commit 613f3f0e"),),
    roles=("close: waits for the end of the transport",),
    minimal="open data:1 data:1 data:1",
    fails=("tasks", "close"),
    close_bound=12.0,
)
