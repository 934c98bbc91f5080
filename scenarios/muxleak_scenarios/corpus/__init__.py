"""Real life-cycle leaks of asyncio programs, a folder each, and the code that drives them.

A folder holds the facts (``case.py``), the story (``README.md``) and the variants: ``buggy.py`` and
``fixed.py``, and ``wrong_*.py`` for fixes that were tried and were wrong. A folder without
``buggy.py`` is a negative control, which looks like a leak and is none. No file lists the folders:
a new folder is a new case.
"""

# A variant is a plain asyncio program without any import of this project, so that every leak
# detector can be pointed at it. It models the mechanism of one real bug: who waits for what, and
# who should wake it. Each module defines one class. Its methods are the steps that it knows
# (`steps.STEPS`), each a plain function or a coroutine function:
#
#   open()       the peer connects; the connection's own tasks start
#   new(i)       the peer opens stream i, or a user asks for one
#   data(i)      one unit of data arrives on stream i; in a relay, from direction i
#   half(i)      orderly end of one direction of stream i
#   reset(i)     abrupt end of stream i
#   cancel(i)    the user's task of stream i is cancelled; done by the driver, no method
#   end()        orderly end of the transport
#   error()      abrupt end of the transport
#   stall()      the next write fails
#   timeout()    time passes, `idle` seconds; done by the driver, no method
#   shutdown()   the server stops
#   close()      local close of the connection; the driver always performs it last
#
# A step whose method is missing means nothing. A coroutine runs as a task of a user, which the next
# steps do not wait for: "half done" steps are where many of these bugs live.
#
# The one argument of a class is `second`, the length of a second: tools on real time make it
# short. A class may say more about itself, for the properties that tasks alone do not show:
#
#   idle         seconds of the step `timeout`, which means nothing without; needs `second`
#   cleaned      dict: number of clean-ups of each resource that was opened, by name
#   lost()       data that was accepted before an orderly end and not delivered
#   in_use()     number of slots, credits or table entries that are taken
#   starved()    True if somebody waits for a slot while one is free
#
# Buggy and fixed differ in one hunk. Both have the same docstring, which describes the roles. A
# README has a title and the paragraphs of `STORY`, with a drawing below the second.

from __future__ import annotations

from dataclasses import dataclass

CLASSES = (
    "orphaned child",
    "early exit",
    "missed wake-up",
    "table or credit",
    "half-close",
    "silent peer",
    "close deadlock",
    "wrong signal",
    "abandoned hand-off",
    "stray timer",
    "double clean-up",
    "lost grant",
    "start after stop",
    "replaced",
)
"""The fault classes; `docs/corpus.md` describes each in one sentence."""

STORY = ("The symptom.", "The sequence.", "The mistake.", "The fix.", "History.")
"""The paragraphs of a README of a case with a buggy variant; a control has any."""

NEEDS = ("nothing", "order", "gap", "time")
"""The kinds of search that a case needs, simplest first.

nothing: every sequence shows it; order: some steps in some order; gap: a step at a certain
iteration of the loop, so that no sequence of settled steps shows it; time: virtual time has to
pass.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The report or change that a case models.

    Attributes:
        project: the project.
        reference: its issue, pull request or commit.
        affected: a release that has the bug; "" if it was never released or is unknown.
        fixed: the first release without it; "" as well.
    """

    project: str
    reference: str
    affected: str = ""
    fixed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongFixFacts:
    """Claims about a fix that repairs the minimal sequence of its case and breaks something else.

    Attributes:
        title: the new mistake in one line.
        minimal: the shortest known sequence on which it fails.
        fails: the properties that it violates there.
        needs: one of `NEEDS`.
        origin: where the fix was tried; None if it is only the obvious one.
    """

    title: str
    minimal: str
    fails: tuple[str, ...]
    needs: str = "order"
    origin: Origin | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFacts:
    """Claims about a case, each proved by ``muxleak verify``.

    Attributes:
        title: the mistake in one line; for a control, what looks like a leak.
        fault: one of `CLASSES`; "" for a control.
        origins: the reports and changes that it models, the closest first.
        roles: the tasks, each with the event that it waits for.
        minimal: the shortest known sequence on which the buggy variant fails, `close` left out.
        fails: the properties that the buggy variant violates there.
        needs: one of `NEEDS`.
        close_bound: virtual seconds that a close may take.
        linger: virtual seconds after the close in which objects may still end, by design.
        examples: random sequences within which a search finds the bug on every seed tried.
        wrong: the facts of each wrong fix, by the name of its module.
    """

    title: str
    fault: str
    origins: tuple[Origin, ...]
    roles: tuple[str, ...]
    minimal: str = "open"
    fails: tuple[str, ...] = ()
    needs: str = "order"
    close_bound: float = 1.0
    linger: float = 0.0
    examples: int = 2_000
    wrong: dict[str, WrongFixFacts] | None = None
