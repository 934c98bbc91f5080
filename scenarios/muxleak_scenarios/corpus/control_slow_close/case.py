"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a close that is slow and ends",
    fault="",
    origins=(Origin(project="RFC 6455", reference="section 7.1.1"),),
    roles=("close: waits for the peer",),
    needs="nothing",
    close_bound=6.0,
)
