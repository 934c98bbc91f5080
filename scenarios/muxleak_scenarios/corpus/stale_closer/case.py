"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="an entry that has ended removes the entry that has taken its place",
    fault="double clean-up",
    origins=(Origin(project="Xray-core", reference="issue #4899, commit f90fae22"),),
    roles=(
        "reader, one for each entry: waits for the end of its entry, then removes it",
        "delivery, one for each unit of data: takes a second",
        "idle timer, one for each entry",
    ),
    minimal="open data:1 timeout data:1",
    fails=("data",),
    needs="time",
    close_bound=4.0,
)
