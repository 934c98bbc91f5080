"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a pool drops a session that has failed without closing it",
    fault="early exit",
    origins=(Origin(project="sing-mux", reference="PRs #2 and #5, commit 4b5fc8d"),),
    roles=("sender, one for each session: waits for the end of its session",),
    minimal="open error new:1",
    fails=("tasks",),
)
