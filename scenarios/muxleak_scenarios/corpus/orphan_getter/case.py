"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin, WrongFixFacts

FACTS = CaseFacts(
    title="a user that is cancelled leaves the task behind in which it waited",
    fault="orphaned child",
    origins=(
        Origin(project="nats.py", reference="commit 2d7e5b5"),
        Origin(project="aiomqtt", reference="commit b116a97"),
        Origin(project="websockets", reference="commit 1f8bd3ad"),
    ),
    roles=(
        "user: waits for its getter or the end",
        "getter, one for each user: waits for a message",
    ),
    minimal="open new:1 cancel:1",
    fails=("tasks",),
    wrong={
        "wrong_drop": WrongFixFacts(
            title="the getter is cancelled, and the message that it has taken already is dropped",
            minimal="open new:1 data:1!0 cancel:1",
            fails=("data",),
            needs="gap",
            origin=Origin(project="nats.py", reference="commit 2d7e5b5"),
        ),
    },
)
