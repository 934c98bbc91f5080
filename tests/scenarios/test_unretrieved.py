"""Unretrieved exceptions are reported at once, whatever refers to their tasks."""

import asyncio
import gc

import pytest

from muxleak import Ledger, VirtualLoop
from muxleak_scenarios.targets.unretrieved import UnretrievedExceptions


async def fail() -> None:
    """Raise."""
    raise RuntimeError("unseen")


def test_exception_is_reported_once(loop: VirtualLoop) -> None:
    """The report names the coroutine and the exception, and retrieves it."""
    exceptions = UnretrievedExceptions(loop)
    _ = loop.create_task(fail())
    loop.run_until_quiescent()

    assert exceptions.unretrieved() == ["fail: never retrieved: RuntimeError('unseen')"]
    assert exceptions.unretrieved() == []


def test_exception_is_reported_of_a_collected_task_and_of_one_in_a_cycle(
    loop: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes no difference if the task is still referenced, and asyncio logs nothing more."""
    exceptions = UnretrievedExceptions(loop)
    cycle: list[object] = [loop.create_task(fail())]
    cycle.append(cycle)
    unreferenced = loop.create_task(fail())
    loop.run_until_quiescent()
    del cycle, unreferenced
    gc.collect()
    reported = exceptions.unretrieved()
    gc.collect()

    assert len(reported) == 2
    assert caplog.text == ""


def test_exception_that_was_retrieved_is_not_reported(loop: VirtualLoop) -> None:
    """An exception that was awaited or asked for, even later, is none; nor is a cancellation."""
    exceptions = UnretrievedExceptions(loop)
    early, late, cancelled = (loop.create_task(fail()) for _ in range(3))
    cancelled.cancel()
    with pytest.raises(RuntimeError):
        loop.run_until_complete(early)
    loop.run_until_quiescent()
    late.exception()

    assert exceptions.unretrieved() == []


def test_ledger_counts_the_tasks_of_the_factory(loop: VirtualLoop) -> None:
    """A ledger installed afterwards counts the tasks of the factory."""
    exceptions = UnretrievedExceptions(loop)
    with Ledger().watching(loop) as ledger:
        task = loop.create_task(asyncio.Event().wait(), name="named")
        counted = ledger.count, task.get_name()
        task.cancel()
        loop.run_until_quiescent()

    assert counted == (1, "named")
    assert ledger.count == 0
    assert exceptions.unretrieved() == []
