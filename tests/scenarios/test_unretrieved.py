"""Exceptions that nobody retrieves are told of at once, whatever holds their tasks."""

import asyncio
import gc

import pytest

from muxleak import Ledger, VirtualLoop
from muxleak_scenarios.targets.unretrieved import Failures


async def fail() -> None:
    """Raise."""
    raise RuntimeError("unseen")


def test_failures_tell_of_an_exception_once(loop: VirtualLoop) -> None:
    """The coroutine and the exception are named; telling counts as looking."""
    failures = Failures(loop)
    _ = loop.create_task(fail())
    loop.run_until_quiescent()

    assert failures.unretrieved() == ["fail: never retrieved: RuntimeError('unseen')"]
    assert failures.unretrieved() == []


def test_failures_see_a_task_that_is_collected_and_one_in_a_cycle(
    loop: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes no difference whether anybody holds the task, and asyncio says nothing more."""
    failures = Failures(loop)
    cycle: list[object] = [loop.create_task(fail())]
    cycle.append(cycle)
    held_by_nobody = loop.create_task(fail())
    loop.run_until_quiescent()
    del cycle, held_by_nobody
    gc.collect()
    told = failures.unretrieved()
    gc.collect()

    assert len(told) == 2
    assert caplog.text == ""


def test_failures_do_not_tell_of_what_was_looked_at(loop: VirtualLoop) -> None:
    """An exception that reaches whoever waits, even later, is no failure; nor is a cancel."""
    failures = Failures(loop)
    early, late, cancelled = (loop.create_task(fail()) for _ in range(3))
    cancelled.cancel()
    with pytest.raises(RuntimeError):
        loop.run_until_complete(early)
    loop.run_until_quiescent()
    late.exception()

    assert failures.unretrieved() == []


def test_failures_leave_counting_to_the_ledger(loop: VirtualLoop) -> None:
    """A ledger installed afterwards counts what the factory makes."""
    failures = Failures(loop)
    with Ledger().watching(loop) as ledger:
        task = loop.create_task(asyncio.Event().wait(), name="named")
        counted = ledger.count, task.get_name()
        task.cancel()
        loop.run_until_quiescent()

    assert counted == (1, "named")
    assert ledger.count == 0
    assert failures.unretrieved() == []
