"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="the end of a stream and the close of its session take two locks in opposite order",
    fault="close deadlock",
    origins=(Origin(project="xtaci/smux", reference="commit f28ad86"),),
    roles=(
        "end of a stream: holds the lock of the stream, waits for that of the session",
        "close: holds the lock of the session, waits for that of the stream",
    ),
    minimal="open new:1 half:1!0",
    fails=("tasks", "close"),
    needs="gap",
)
