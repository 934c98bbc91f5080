"""Runs one program under one entry, in an environment that has its releases.

python probe.py ENTRY PROGRAM, with ENTRY one of block, decorator, repeat, pyleak, bare. Prints one
line of JSON: true if something was found, its text, and an exception of the program itself.

A program has a coroutine function `use`: one use of the library. It may have an async context
manager `service`, which surrounds the check: a server that was started before, for example.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

REPETITIONS = 6


async def block(use: Callable[[], Awaitable[None]]) -> None:
    """Check one use as a block."""
    from muxleak import no_leaks

    async with no_leaks():
        await use()


async def decorator(use: Callable[[], Any]) -> None:
    """Check one use as a decorated function."""
    from muxleak import no_leaks

    await no_leaks(use)()


async def repeat(use: Callable[[], Any]) -> None:
    """Check growth over some uses."""
    from muxleak import no_leaks

    await no_leaks(repeat=REPETITIONS)(use)()


async def pyleak(use: Callable[[], Awaitable[None]]) -> None:
    """Check one use with pyleak: tasks and threads."""
    from pyleak import no_task_leaks, no_thread_leaks  # type: ignore[import-not-found]

    with no_thread_leaks(action="raise"):
        async with no_task_leaks(action="raise"):
            await use()


async def bare(use: Callable[[], Awaitable[None]]) -> None:
    """Check nothing: the program must run."""
    await use()


ENTRIES = {each.__name__: each for each in (block, decorator, repeat, pyleak, bare)}
VERDICTS = {"LeakError", "PyleakExceptionGroup", "TaskLeakError", "ThreadLeakError"}
"""Names of the exceptions by which an entry reports a leak."""


async def run(program: ModuleType, entry: str) -> None:
    """Check one use of a program inside its service, print the outcome, and end the process.

    At once: a thread that was left, or a task that swallows its cancellation, would keep it.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(getattr(program, "service", nullcontext)())
        # Caught here, lest a task group of the service wraps it.
        try:
            await ENTRIES[entry](program.use)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
            answer = outcome(error)
        else:
            answer = {"found": False, "error": None, "text": ""}
        print(json.dumps(answer), flush=True)
        os._exit(0)


def outcome(error: Exception) -> dict[str, Any]:
    """Return the outcome that an exception means."""
    kind = type(error).__name__
    parts = (error, *getattr(error, "__notes__", ()), *getattr(error, "exceptions", ()))
    return {
        "found": kind in VERDICTS,
        "error": None if kind in VERDICTS else kind,
        "text": "\n".join(map(str, parts)),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent / "programs"))
    entry, name = sys.argv[1:]
    asyncio.run(run(importlib.import_module(name), entry))
    print(
        json.dumps({"found": False, "error": "CancelledError", "text": "the check was cancelled"})
    )
