"""Formats the live tasks by stack, in the form of Go's ``/debug/pprof/goroutine?debug=1``.

A program that counts goroutines in that form counts tasks in this one:

    goroutine profile: total 3
    2 @ 0x5be0f3a10026 0x2c49d7e5004e
    # labels: {"created_by":"vless/session.py:83 in MuxSession.run","task":"MuxSession._watch"}
    #   0x5be0f3a10026  Context.wait+0x26       vless/context.py:105
    #   0x2c49d7e5004e  MuxSession._watch+0x4e  vless/session.py:90

The wider gaps are tabs, the innermost frame is first, and a blank line ends each group.
"""

# Rules that keep the form readable for programs, and the service alive:
#
# - Tasks with the same creation site and the same stack are one group. A stack is compared by the
#   addresses of its code objects and the instructions in them, and made into text once per group:
#   a service may have 100,000 tasks in a handful of groups.
# - Go's addresses are those of machine code. Here an address is the checksum of a frame's file,
#   first line and function, plus the instruction. So it is the same in every process that runs the
#   same source, and counts of two processes can be compared.
# - The profile runs in the loop and blocks it. Reading a stack costs a few microseconds, so at most
#   `MAX_STACKS` are read; further tasks are grouped by creation site, and a label says so.
# - The profile makes no task, and leaves out the monitor's own.

import json
import zlib
from collections.abc import Iterable
from types import CodeType
from typing import NamedTuple

from muxleak.introspect.sites import Site, short_path
from muxleak.introspect.waiting import AnyTask, name_of, suspended
from muxleak.ledger.counters import Scope

MAX_STACKS = 10_000
_Key = tuple[object, ...]


class _Stack(NamedTuple):
    frames: tuple[tuple[CodeType, int, int], ...]  # code, instruction, line; innermost first
    labels: dict[str, str]


def profile(root: Scope, *, hidden: Scope | None = None, max_stacks: int = MAX_STACKS) -> str:
    """Return the live tasks charged to `root` and the scopes inside it, as text.

    Args:
        root: the root scope of a ledger, or another scope.
        hidden: a scope whose tasks are left out.
        max_stacks: the number of stacks to read, a few microseconds each; further tasks are
            grouped by creation site.
    """
    root.counters.sweep()
    stacks: dict[_Key, _Stack] = {}
    counts: dict[_Key, int] = {}
    total = 0
    for task, site in _tasks(root, hidden):
        total += 1
        frames = _frames(task) if total <= max_stacks else None
        key: _Key = (site, frames and tuple((id(code), at) for code, at, _ in frames))
        if key not in stacks:
            stacks[key] = _stack(task, site, frames)
        counts[key] = counts.get(key, 0) + 1
    blocks = [f"goroutine profile: total {total}\n"]
    blocks += [
        _block(counts[key], stacks[key]) for key in sorted(counts, key=lambda each: -counts[each])
    ]
    return "".join(blocks)


def _tasks(root: Scope, hidden: Scope | None) -> Iterable[tuple[AnyTask, Site]]:
    for scope in [root, *root.inside()]:
        if scope is not hidden:
            for record in scope.records(None):
                yield record.task, record.site


def _frames(task: AnyTask) -> tuple[tuple[CodeType, int, int], ...]:
    try:
        frames = suspended(task)
    except Exception:  # noqa: BLE001 - a report must not fail over what it reports on
        return ()
    return tuple((each.f_code, max(each.f_lasti, 0), each.f_lineno) for each in reversed(frames))


def _stack(
    task: AnyTask, site: Site, frames: tuple[tuple[CodeType, int, int], ...] | None
) -> _Stack:
    labels = {"created_by": str(site), "task": name_of(task)}
    if frames is None:
        labels["stack"] = "not read, there are too many tasks: this is where they were made"
    if not frames and site.innermost is not None:
        code, instruction = site.innermost
        frames = ((code, instruction, site.frames[0].line),)
    return _Stack(frames or (), labels)


def _block(count: int, stack: _Stack) -> str:
    addresses, lines = "", ""
    for code, instruction, line in stack.frames:
        path = short_path(code.co_filename)
        entry = zlib.crc32(f"{path}:{code.co_firstlineno}:{code.co_qualname}".encode()) << 16
        address = hex(entry + instruction)
        addresses += f" {address}"
        lines += f"#\t{address}\t{code.co_qualname}+{hex(instruction)}\t{path}:{line}\n"
    labels = json.dumps(stack.labels, separators=(",", ":"))
    return f"{count} @{addresses}\n# labels: {labels}\n{lines}\n"
