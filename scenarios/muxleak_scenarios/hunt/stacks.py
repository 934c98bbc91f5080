"""Parses goroutine profiles, in both text forms of ``/debug/pprof/goroutine``, into stacks."""

# The forms, as Go's runtime/pprof writes them (pprof.go: printCountProfile, writeGoroutineStacks):
#
# ``debug=1`` groups equal stacks. A line with the total, then a block for each stack: its count and
# its addresses, its labels if there are any, and a line for each frame. Blocks end with an empty
# line.
#
#     | goroutine profile: total 5
#     | 3 @ 0x49384a 0x41c96e
#     | # labels: {"a":"b"}
#     | #  0x4d9706  internal/poll.(*pollDesc).wait+0x26  internal/poll/fd_poll_runtime.go:84
#
# ``debug=2`` has a block for each goroutine, in the form of a traceback: its id, its state and for
# how many minutes it has been in it, two lines for each frame, and the function that started it.
#
#     | goroutine 7 [IO wait, 3 minutes]:
#     | main.run({0x1, 0x2}, 0x3)
#     |     /src/main.go:197 +0x384
#     | created by main.start in goroutine 1
#     |     /src/main.go:10 +0x5
#
# A stack is the key under which growth is counted, so everything that differs between goroutines
# that wait at the same place is removed: addresses, offsets in a function, lines, arguments, ids,
# the minutes of a state, and labels. Two goroutines at two lines of one function are one stack.
# Stacks of the two forms differ, since the state and the starter stand in the second only; one
# server must be asked for the same form throughout a hunt.
#
# One label is read: ``created_by``, which the tasks endpoint of this project writes for its tasks.
# It takes the place of "created by", so that tasks of one coroutine that were created at two places
# are told apart. Other programs may have labels of any kind, and even invalid JSON is no error.
#
# The total in the first line must equal the sum of the counts: a profile that was cut short would
# look like a server that has lost goroutines.
#
# The goroutines that serve the request are not part of the server's work and are dropped: the one
# that writes the profile and the one that reads the request's connection. A block without any frame
# is a goroutine that has been started and has not yet run, in most cases for this request.

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress

Stack = tuple[str, ...]
"""Function names, the innermost first. Where they are known, the state in brackets comes before
them, and "created by ..." with the function that started the goroutine comes after them."""

CREATED = "created by "
_LABELS = "# labels:"
_TOTAL = re.compile(r"goroutine profile: total (\d+)\s")
_COUNTED = re.compile(r"(\d+) @(?: |$)")
_SINGLE = re.compile(r"goroutine \d+(?: gp=\S+ m=\S+(?: mp=\S+)?)? \[([^\]]*)\]:$")
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")
_ADDRESS = re.compile(r"0x[0-9a-f]+$")
_ARGUMENTS = re.compile(r"\([^()]*\)$")
_STARTER = re.compile(r"created by (\S+)")
_OWN = ("runtime/pprof.", "net/http.(*connReader).backgroundRead")
"""Prefixes of functions that only the goroutines of the request itself are in."""


def parse_stacks(text: str) -> Counter[Stack]:
    """Parse a profile, without the goroutines that write it.

    Args:
        text: the profile, in either form.

    Returns:
        The number of goroutines by stack.

    Raises:
        ValueError: it is no profile, or its total is not the sum of its counts.
    """
    total = _TOTAL.match(text)
    found = _grouped(text) if total else _single(text)
    shown = sum(found.values())
    if total and shown != int(total[1]):
        raise ValueError(f"expected {total[1]} goroutines, as the first line says; got {shown}")
    if not (found or total):
        raise ValueError(
            "expected a goroutine profile as text, with debug=1 or debug=2 in its address; "
            f"got {text[:60]!r}"
        )
    for stack in list(found):
        if not stack or any(name.startswith(_OWN) for name in stack):
            del found[stack]
    return found


def _grouped(text: str) -> Counter[Stack]:
    found: Counter[Stack] = Counter()
    for block in text.partition("\n")[2].split("\n\n"):
        lines = block.strip().splitlines()
        counted = _COUNTED.match(lines[0]) if lines else None
        if counted:
            frames = [line[1:].split() for line in lines[1:] if not line.startswith(_LABELS)]
            names = [_function(words) for words in frames if words]
            found[(*names, *_creator(lines[1:2]))] += int(counted[1])
    return found


def _creator(lines: list[str]) -> tuple[str, ...]:
    """Return the creation site that the labels name, if any."""
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            if line.startswith(_LABELS):
                return (f"{CREATED}{json.loads(line.removeprefix(_LABELS))['created_by']}",)
    return ()


def _function(words: list[str]) -> str:
    if len(words) > 1 and _ADDRESS.match(words[0]):
        words = words[1:]
    return _OFFSET.sub("", words[0])


def _single(text: str) -> Counter[Stack]:
    found: Counter[Stack] = Counter()
    for block in text.split("\n\n"):
        lines = block.strip().splitlines()
        head = _SINGLE.match(lines[0]) if lines else None
        if head is None:
            continue
        # Only the state, without the minutes and other remarks behind the comma.
        names = [f"[{head[1].partition(',')[0]}]"]
        for line in lines[1:]:
            if line.startswith(("\t", "...")):
                continue
            starter = _STARTER.match(line)
            names.append(f"{CREATED}{starter[1]}" if starter else _ARGUMENTS.sub("", line))
        found[tuple(names)] += 1
    return found


def parted(stack: Stack) -> tuple[Stack, str]:
    """Split a stack into its functions and the function that started it, "" if not known."""
    functions = tuple(name for name in stack if not name.startswith(CREATED))
    starters = [name.removeprefix(CREATED) for name in stack if name.startswith(CREATED)]
    return functions, "".join(starters[:1])


_RUNTIME = ("runtime.", "internal/poll.", "syscall.", f"{CREATED}runtime.")


def readable(stack: Stack) -> Stack:
    """Return a stack without functions of the runtime, or all of it if it has no others."""
    shown = tuple(name for name in stack if not name.startswith(_RUNTIME))
    return shown if any(name[:1] != "[" for name in shown) else stack
