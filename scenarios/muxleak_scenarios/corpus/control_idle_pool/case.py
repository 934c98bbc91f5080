"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="an idle connection that a pool keeps for a while",
    fault="",
    origins=(Origin(project="httpcore", reference="keepalive_expiry"),),
    roles=("idle timer: drops the connection",),
    needs="nothing",
    linger=21.0,
)
