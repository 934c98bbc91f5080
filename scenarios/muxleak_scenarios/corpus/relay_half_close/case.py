"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin, WrongFixFacts

FACTS = CaseFacts(
    title="a relay waits for the ends of both directions, and one of them never comes",
    fault="half-close",
    origins=(
        Origin(project="Xray-core", reference="PR #1417, commit 3e4e0503"),
        Origin(project="pymobiledevice3", reference="PR #1760"),
        Origin(project="open-webui", reference="PR #25479"),
    ),
    roles=(
        "parent: waits for the directions, then closes the sockets",
        "direction, two: waits for data of its source",
    ),
    minimal="open",
    fails=("tasks", "cleanup"),
    needs="nothing",
    linger=31.0,
    wrong={
        "wrong_first_end": WrongFixFacts(
            title="the first end cancels the other direction, and the answer is lost",
            minimal="open half:1 data:2",
            fails=("data",),
            origin=Origin(project="bitchat", reference="PR #1495"),
        ),
    },
)
