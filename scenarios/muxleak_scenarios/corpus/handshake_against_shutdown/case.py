"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a handler asks before the user's hook if the server still serves, and not after it",
    fault="start after stop",
    origins=(Origin(project="websockets", reference="commit 5eb473ee"),),
    roles=(
        "handler: runs the hook, then waits for the end of its connection",
        "close: waits for the handlers",
    ),
    minimal="open",
    fails=("tasks", "close"),
    needs="nothing",
)
