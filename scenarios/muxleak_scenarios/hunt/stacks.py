"""Goroutine profiles as text, in both forms of ``/debug/pprof/goroutine``: how many wait where.

With ``debug=1`` equal stacks are counted together; with ``debug=2`` every goroutine stands by
itself, with its state and the function that started it. Anything else that counts tasks may offer
the first form: ``goroutine profile: total N``, then blocks of ``COUNT @ ...`` and ``# FUNCTION
FILE:LINE`` lines.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import suppress

Stack = tuple[str, ...]
"""Functions, the innermost first; before them the state in brackets, and after them who started it,
as "created by ...", where that is known."""

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
"""Whoever asks is counted, too: the goroutines of the request itself."""


def parse_stacks(text: str) -> Counter[Stack]:
    """Read a profile; the goroutines that write it are left out.

    Raises:
        ValueError: if it is no profile, or says another total than it shows.
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
    # One that has no function yet is about to run: mostly, to serve the request.
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
    """Say who started it, where labels tell."""
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
        # The state may end in how long, which tells nothing about where.
        names = [f"[{head[1].partition(',')[0]}]"]
        for line in lines[1:]:
            if line.startswith(("\t", "...")):
                continue
            starter = _STARTER.match(line)
            names.append(f"{CREATED}{starter[1]}" if starter else _ARGUMENTS.sub("", line))
        found[tuple(names)] += 1
    return found


def parted(stack: Stack) -> tuple[Stack, str]:
    """Return its functions, and who started it, or "" if that is not known."""
    functions = tuple(name for name in stack if not name.startswith(CREATED))
    starters = [name.removeprefix(CREATED) for name in stack if name.startswith(CREATED)]
    return functions, "".join(starters[:1])


_PLUMBING = ("runtime.", "internal/poll.", "syscall.", f"{CREATED}runtime.")


def readable(stack: Stack) -> Stack:
    """Return a stack without the runtime's own plumbing, unless there is nothing else to it."""
    told = tuple(name for name in stack if not name.startswith(_PLUMBING))
    return told if any(name[:1] != "[" for name in told) else stack
