"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="an opener that is cancelled in the iteration in which it was woken keeps its turn",
    fault="lost grant",
    origins=(Origin(project="quic-go", reference="PR #5037, commit f4c478b62"),),
    roles=("opener, one for each stream: waits until the stream before it has ended",),
    minimal="open new:1 new:2 new:3 reset:1!0 cancel:2",
    fails=("slots",),
    needs="gap",
    examples=20_000,
)
