"""Performs steps at a variant of a case, on any event loop.

Plain asyncio, without anything else of this project, so that other tools can use it: see
`perform_steps`.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from muxleak_scenarios.corpus.steps import CaseStep, parse_steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

_TURNS = 50  # iterations that let a loop settle which cannot tell; each case needs fewer
REFUSED = (OSError, asyncio.CancelledError)
"""Exceptions by which a user of a case learns that the connection refuses or has gone."""


async def wait_turns() -> None:
    """Let the running loop settle: give it many iterations."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class CaseDriver:
    """Performs steps at one object of a case's class.

    Args:
        case: the object.
        settle: lets the running loop settle.

    Attributes:
        errors: exceptions of users' tasks that are not `REFUSED`.
    """

    def __init__(self, case: Any, settle: Callable[[], Awaitable[None]] = wait_turns) -> None:
        self.case, self.settle = case, settle
        self.errors: list[BaseException] = []
        self._users: dict[int | None, asyncio.Task[Any]] = {}

    async def perform(self, step: CaseStep) -> None:
        """Perform one step, and wait as its gap says."""
        if step.verb == "cancel":
            user = self._users.get(step.stream)
            if user is not None:
                user.cancel()
        elif step.verb == "timeout":
            await asyncio.sleep(self.case.idle * self.case.second)
        else:
            self._call(step)
        if step.gap is None:
            await self.settle()
        else:
            for _ in range(step.gap):
                await asyncio.sleep(0)

    def _call(self, step: CaseStep) -> None:
        method = getattr(self.case, step.verb, None)
        if method is None:
            return
        try:
            result = method() if step.stream is None else method(step.stream)
        except REFUSED:
            return
        if inspect.iscoroutine(result):
            user = asyncio.get_running_loop().create_task(result, name=str(step))
            self._users[step.stream] = user
            user.add_done_callback(self._ended)

    def _ended(self, user: asyncio.Task[Any]) -> None:
        error = None if user.cancelled() else user.exception()
        if error is not None and not isinstance(error, REFUSED):
            self.errors.append(error)


async def perform_steps(
    case: Any,
    steps: str | Iterable[CaseStep],
    settle: Callable[[], Awaitable[None]] = wait_turns,
) -> CaseDriver:
    """Perform steps at an object of a case's class, then close it.

    A leak detector is tried on a case in a few lines::

        from muxleak_scenarios.corpus.driver import perform_steps
        from muxleak_scenarios.corpus.registry import load_cases

        case = load_cases()["accept_backlog"]

        async def test_buggy():
            await perform_steps(case.buggy(second=0.01), case.facts.minimal)

    Args:
        case: the object.
        steps: the steps, or their notation.
        settle: lets the running loop settle; by default by many iterations.

    Returns:
        The driver, with the errors of the users' tasks.

    Raises:
        ValueError: the notation is wrong.
    """
    driver = CaseDriver(case, settle)
    for step in parse_steps(steps) if isinstance(steps, str) else steps:
        await driver.perform(step)
    await case.close()
    await settle()
    return driver
