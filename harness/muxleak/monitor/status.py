"""What a monitor tells: of a site, of the whole, and when something is wrong."""

from typing import NamedTuple


class SiteStatus(NamedTuple):
    """What is known of one line of code that makes tasks.

    Attributes:
        site: "file:line in function".
        live: tasks that have not ended.
        left: those of them that no open connection accounts for.
        created: tasks made.
        finished: tasks ended.
        slope: how `left` changes, per minute: Theil and Sen's estimate over the window.
        lower: its lower bound, of 99 % one-sided confidence.
        climbing: whether the alarm is on.
    """

    site: str
    live: int
    left: int
    created: int
    finished: int
    slope: float
    lower: float
    climbing: bool


class Status(NamedTuple):
    """The totals; those of connections and other kinds are as of the last look.

    Attributes:
        tasks: that have not ended.
        created: tasks made.
        finished: tasks ended.
        accepted: connections that servers have accepted.
        ended: those of them that have ended.
        transports: open, accepted and others.
        timers: that are set, other than those asyncio sets for a sleep or timeout.
    """

    tasks: int
    created: int
    finished: int
    accepted: int
    ended: int
    transports: int
    timers: int


class Alarm(NamedTuple):
    """That the tasks of a line climb without bound, or do so no longer.

    Attributes:
        site: "file:line in function".
        left: its live tasks that no open connection accounts for.
        slope: how many more there are per minute.
        lower: the lower bound of that.
        minutes: the window that was looked at.
        recovered: whether this is the end of an alarm.
    """

    site: str
    left: int
    slope: float
    lower: float
    minutes: float
    recovered: bool

    def __str__(self) -> str:
        if self.recovered:
            return f"{self.site}: no longer climbs; {self.left:,} tasks without open connection"
        return (
            f"{self.site}: {self.left:,} tasks without open connection, and climbing by"
            f" {self.slope:.3g} per minute (at least {self.lower:.3g}) for {self.minutes:.3g} min"
        )
