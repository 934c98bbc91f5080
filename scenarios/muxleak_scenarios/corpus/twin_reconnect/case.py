"""The facts of the case."""

from muxleak_scenarios.corpus import CaseFacts, Origin

FACTS = CaseFacts(
    title="a second report of one lost connection starts a second task to reconnect",
    fault="replaced",
    origins=(
        Origin(
            project="python-socketio",
            reference="issue #1369, commit b6ee33e",
            affected="5.11.2",
            fixed="5.11.3",
        ),
    ),
    roles=("reconnect: sleeps, then connects",),
    minimal="open error error",
    fails=("tasks",),
)
