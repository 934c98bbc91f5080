"""Seconds in messages, rounded so that the speed of the machine does not show."""

import re

_STEP = 20


def rounded(text: str) -> str:
    """Return the text with each "in N s" rounded up to a multiple of 20 s.

    A message that says when a timer fires is made some time after the timer was set.
    """
    return re.sub(r"\bin (\d+) s\b", lambda found: f"in {_up(int(found[1]))} s", text)


def _up(seconds: int) -> int:
    return -(-seconds // _STEP) * _STEP
