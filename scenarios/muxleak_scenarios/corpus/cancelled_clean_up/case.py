"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a clean-up that awaits is cut short by a second cancellation",
    fault="table or credit",
    origins=(Origin(project="httpcore", reference="PRs #580, #627 and #880"),),
    roles=("request: waits for its answer",),
    minimal="open new:1 cancel:1!1 cancel:1",
    fails=("slots",),
    needs="gap",
)
