"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a close marks the connection as closed and does not wake the sender",
    fault="missed wake-up",
    origins=(Origin(project="hypercorn", reference="commits 1e350e4 and c6dcf63"),),
    roles=("sender: waits for data",),
    minimal="open",
    fails=("tasks",),
    needs="nothing",
)
