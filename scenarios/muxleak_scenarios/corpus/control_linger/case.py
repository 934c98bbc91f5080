"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a task that outlives its connection by a bound that the server states",
    fault="",
    origins=(Origin(project="RFC 9112", reference="section 9.6, lingering close"),),
    roles=("linger: reads for 30 seconds",),
    linger=31.0,
    needs="nothing",
)
