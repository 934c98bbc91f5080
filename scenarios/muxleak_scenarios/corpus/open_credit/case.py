"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="an opener whose frame cannot be written keeps its credit",
    fault="table or credit",
    origins=(Origin(project="hashicorp/yamux", reference="commit 59d1616"),),
    roles=("opener: takes a credit, then writes",),
    minimal="open stall new:1",
    fails=("slots",),
)
