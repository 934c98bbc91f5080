"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a close that runs in one of the tasks which it cancels is cut short",
    fault="close deadlock",
    origins=(Origin(project="nats.py", reference="PR #841, commit 4c03f5f"),),
    roles=("read loop: waits for data, closes on an error", "ping loop: waits for its time"),
    minimal="open error",
    fails=("cleanup",),
)
