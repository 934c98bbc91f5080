"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin, WrongFixFacts

FACTS = CaseFacts(
    title="a reader misses the wake-up that comes between its look and its wait",
    fault="missed wake-up",
    origins=(Origin(project="hashicorp/yamux", reference="PR #127, commit 877b999"),),
    roles=("reader: waits for data or the end",),
    minimal="open new:1!0",
    fails=("tasks",),
    needs="gap",
    wrong={
        "wrong_spin": WrongFixFacts(
            title="the event stays set, and a reader without data never rests",
            minimal="open data:1 new:1 new:2",
            fails=("quiet",),
            origin=Origin(project="hashicorp/yamux", reference="PR #176"),
        ),
    },
)
