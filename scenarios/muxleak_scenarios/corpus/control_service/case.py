"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a task that was there before the first connection",
    fault="",
    origins=(Origin(project="gorilla/websocket", reference="PR #883, refused"),),
    roles=("hub: waits for messages",),
    needs="nothing",
)
