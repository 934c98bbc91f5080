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
# A profile may have tens of megabytes, which take seconds to parse. So `StackParser` takes it piece
# by piece, as it arrives, and its caller lets other work go on in between. It holds the block that
# is not complete yet, and nothing else of the text.
#
# The goroutines that serve the request are not part of the server's work and are dropped: the one
# that writes the profile and the one that reads the request's connection. A block without any frame
# is a goroutine that has been started and has not yet run, in most cases for this request.

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from muxleak.files import FileError, field, from_json

if TYPE_CHECKING:
    from collections.abc import Callable

Stack = tuple[str, ...]
"""Function names, the innermost first. Where they are known, the state in brackets comes before
them, and "created by ..." with the function that started the goroutine comes after them."""

CREATED = "created by "
_LABELS = "# labels:"
_TOTAL = re.compile(r"goroutine(?:leak)? profile: total (\d{1,18})\s")
_COUNTED = re.compile(r"(\d{1,18}) @(?: |$)")
_SINGLE = re.compile(r"goroutine \d+(?: gp=\S+ m=\S+(?: mp=\S+)?)? \[([^\],{]*).*:$")
_OFFSET = re.compile(r"\+0x[0-9a-f]+$")
_ADDRESS = re.compile(r"0x[0-9a-f]+$")
_ARGUMENTS = re.compile(r"\([^()]*\)$")
_STARTER = re.compile(r"created by (\S+)")
_OWN = re.compile(r"runtime/pprof\.|.*\bhttp\.\(\*connReader\)\.backgroundRead").match
"""Matches functions that only the goroutines of the request itself are in; the second one also in
copies of net/http, such as that of mihomo, github.com/metacubex/http."""
_SHOWN = 60
"""Characters of a text that is no profile, in the message."""


def parse_stacks(text: str) -> Counter[Stack]:
    """Parse a profile, without the goroutines that write it.

    Args:
        text: the profile, in either form.

    Returns:
        The number of goroutines by stack.

    Raises:
        ValueError: it is no profile, or its total is not the sum of its counts.
    """
    parser = StackParser()
    parser.feed(text)
    return parser.close()


class StackParser:
    """Parses a profile that comes in pieces, in either form.

    Attributes:
        start: the first characters of the text.
    """

    def __init__(self) -> None:
        self.start = ""
        self._head: str | None = ""
        """Text before the end of the first line; None once the form is known."""
        self._total: int | None = None
        self._rest: list[str] = []
        """Pieces of the block that is not complete."""
        self._found: Counter[Stack] = Counter()
        self._parse: Callable[[list[str]], tuple[Stack, int] | None] = _single

    def feed(self, text: str) -> None:
        """Parse the next piece, as far as its blocks are complete."""
        self.start += text[: _SHOWN - len(self.start)]
        if self._head is not None:
            # The first line tells the form, and belongs to no block if it has the total.
            text = self._head + text
            if "\n" not in text:
                self._head = text
                return
            self._head, total = None, _TOTAL.match(text)
            if total is not None:
                self._total, self._parse = int(total[1]), _grouped
                text = text.partition("\n")[2]
        # Joined only where a block ends: a long text without one costs no time.
        before = self._rest[-1][-1:] if self._rest else ""
        self._rest.append(text)
        if "\n\n" in before + text:
            whole, _, rest = "".join(self._rest).rpartition("\n\n")
            self._rest = [rest] if rest else []
            self._blocks(whole)

    def close(self) -> Counter[Stack]:
        """Parse the rest, and return the number of goroutines by stack.

        Raises:
            ValueError: the text was no profile, or its total is not the sum of its counts.
        """
        self._blocks((self._head or "") + "".join(self._rest))
        found, total = self._found, self._total
        shown = sum(found.values())
        if total is not None and shown != total:
            raise ValueError(f"expected {total} goroutines, as the first line says; got {shown}")
        if total is None and not found:
            raise ValueError(
                "expected a goroutine profile as text, with debug=1 or debug=2 in its address; "
                f"got {self.start!r}"
            )
        for stack in list(found):
            if not stack or any(map(_OWN, stack)):
                del found[stack]
        return found

    def _blocks(self, text: str) -> None:
        for block in text.split("\n\n"):
            lines = block.strip().splitlines()
            parsed = self._parse(lines) if lines else None
            if parsed is not None:
                self._found[parsed[0]] += parsed[1]


def _grouped(lines: list[str]) -> tuple[Stack, int] | None:
    counted = _COUNTED.match(lines[0])
    if counted is None:
        return None
    names = [_function(line) for line in lines[1:] if not line.startswith(_LABELS)]
    return (*filter(None, names), *_creator(lines[1:2])), int(counted[1])


def _creator(lines: list[str]) -> tuple[str, ...]:
    """Return the creation site that the labels name, if any."""
    for line in lines:
        with suppress(FileError):
            if line.startswith(_LABELS):
                labels = from_json(line.removeprefix(_LABELS))
                return (CREATED + field(labels, "created_by", str),)
    return ()


# Few different lines make up a long profile.
@lru_cache(maxsize=4096)
def _function(line: str) -> str:
    words = line[1:].split()
    if not words:
        return ""
    if len(words) > 1 and _ADDRESS.match(words[0]):
        words = words[1:]
    return _OFFSET.sub("", words[0])


def _single(lines: list[str]) -> tuple[Stack, int] | None:
    head = _SINGLE.match(lines[0])
    if head is None:
        return None
    # Only the state, without the minutes behind a comma, and without labels. Those stand in braces:
    # in the brackets up to Go 1.26, behind them since; their values may be any text.
    names = [f"[{head[1].rstrip()}]"]
    for line in lines[1:]:
        if line.startswith(("\t", "...")):
            continue
        starter = _STARTER.match(line)
        names.append(f"{CREATED}{starter[1]}" if starter else _ARGUMENTS.sub("", line))
    return tuple(names), 1


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
