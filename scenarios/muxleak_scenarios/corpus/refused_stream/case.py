"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin, WrongFixFacts

FACTS = CaseFacts(
    title="a stream that is refused leaves its watcher behind",
    fault="early exit",
    origins=(Origin(project="grpc-go", reference="PR #2985, commit 7cc213310"),),
    roles=("watcher, one for each stream: waits for the end of its stream",),
    minimal="open new:1 new:2",
    fails=("tasks",),
    wrong={
        "wrong_one_refusal": WrongFixFacts(
            title="only one of the refusals cancels the watcher",
            minimal="open end new:1",
            fails=("tasks",),
        ),
    },
)
