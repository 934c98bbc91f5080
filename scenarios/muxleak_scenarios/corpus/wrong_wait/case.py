"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a handler waits for the end of its request, which ends with the server only",
    fault="wrong signal",
    origins=(Origin(project="Xray-core", reference="PR #5100, commit 4740ba24"),),
    roles=("handler: waits for the end of its request",),
    minimal="open",
    fails=("tasks",),
    needs="nothing",
)
