"""The values that a monitor returns: the status of a site, the totals, and an alarm."""

from typing import NamedTuple


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
    """The totals. Tasks are counted now; connections, transports and timers at the last sample.

    Attributes:
        tasks: tasks that have not ended.
        created: tasks made.
        finished: tasks ended.
        accepted: connections that servers have accepted.
        ended: those of them that have ended.
        transports: open transports, accepted and others.
        timers: timers that are set, without those that asyncio sets for a sleep or timeout.
    """

    tasks: int
    created: int
    finished: int
    accepted: int
    ended: int
    transports: int
    timers: int


class Alarm(NamedTuple):
    """The beginning or the end of the growth of the tasks of one line.

    Attributes:
        site: "file:line in function".
        left: its live tasks that belong to no open connection.
        slope: change of `left` per minute.
        lower: lower bound of the slope, 99 % one-sided.
        minutes: length of the window.
        recovered: True if this is the end of an alarm.
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
