"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="the keep-alive task of a connection outlives it",
    fault="stray timer",
    origins=(Origin(project="hypercorn", reference="commit 01c6e82"),),
    roles=("keep-alive task: waits for five seconds without a request",),
    minimal="open data:1",
    fails=("tasks",),
)
