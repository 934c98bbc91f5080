"""The values that a monitor returns: the status of a site, the totals, and an alarm."""

from typing import NamedTuple

from muxleak.monitor.connections import DESCRIPTORS
from muxleak.monitor.connections import SITE as CONNECTIONS

_UNSEEN = (
    "; no server has shown its connections, but open descriptors have not grown with the tasks"
)

_COUNTED = {CONNECTIONS: "stuck", DESCRIPTORS: "of no transport"}


class SiteStatus(NamedTuple):
    """The status of one line of code that makes tasks.

    Attributes:
        site: "file:line in function".
        live: tasks that have not ended.
        left: those of them that belong to no open connection.
        created: tasks made.
        finished: tasks ended.
        slope: change of `left` per minute: Theil and Sen's estimate over the window.
        lower: lower bound of the slope, 99 % one-sided.
        climbing: True while the alarm is on.
        destroyed: those of `finished` that a garbage collection has destroyed while they were
            pending, since nothing else than asyncio referred to them.
    """

    site: str
    live: int
    left: int
    created: int
    finished: int
    slope: float
    lower: float
    climbing: bool
    destroyed: int = 0


class Status(NamedTuple):
    """The totals. Tasks are counted now; connections, transports and timers at the last sample.

    Attributes:
        tasks: tasks that have not ended.
        created: tasks made.
        finished: tasks ended.
        accepted: connections that servers have accepted.
        ended: those of them that have ended.
        transports: open transports, accepted and others.
        timers: timers that are set, without those that asyncio sets for a sleep or timeout.
        stuck: accepted connections that serve nobody: their peer has ended, or the server does not
            read from them, and for one interval no byte has passed.
        unseen: True as long as no server has accepted a connection that the monitor could see.
        destroyed: those of `finished` that were destroyed while pending.
        errors: exceptions of tasks and futures that nobody retrieved.
        messages: other messages to the exception handler.
        warnings: ResourceWarnings about things that were not closed.
        descriptors: open descriptors of the process that belong to no transport of the loop, at the
            last sample.
    """

    tasks: int
    created: int
    finished: int
    accepted: int
    ended: int
    transports: int
    timers: int
    stuck: int = 0
    unseen: bool = False
    destroyed: int = 0
    errors: int = 0
    messages: int = 0
    warnings: int = 0
    descriptors: int = 0


class MessageStatus(NamedTuple):
    """The messages of one kind and text that came from one line.

    Attributes:
        kind: "error", "message" or "warning".
        text: of an error, the name of its task; else the text without addresses and numbers.
        site: "file:line in function": the line that raised an exception, or that dropped what was
            not closed; "unknown" where there is none.
        number: how many there were.
    """

    kind: str
    text: str
    site: str
    number: int


class Alarm(NamedTuple):
    """The beginning or the end of the growth of tasks, stuck connections or descriptors.

    Attributes:
        site: "file:line in function"; `CONNECTIONS` for connections, `DESCRIPTORS` for descriptors.
        left: its live tasks that belong to no open connection; or stuck connections; or open
            descriptors.
        slope: change of `left` per minute.
        lower: lower bound of the slope, 99 % one-sided.
        minutes: length of the window.
        recovered: True if this is the end of an alarm.
        unseen: True if no server has shown a connection.
    """

    site: str
    left: int
    slope: float
    lower: float
    minutes: float
    recovered: bool
    unseen: bool = False

    def __str__(self) -> str:
        what = _COUNTED.get(self.site, "tasks without open connection")
        if self.recovered:
            return f"{self.site}: no longer climbs; {self.left:,} {what}"
        return (
            f"{self.site}: {self.left:,} {what}, and climbing by"
            f" {self.slope:.3g} per minute (at least {self.lower:.3g}) for {self.minutes:.3g} min"
            + (_UNSEEN if self.unseen else "")
        )
