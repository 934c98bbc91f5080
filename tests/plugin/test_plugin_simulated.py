"""Tests that run simulations: what a simulated run leaves is the run's result, not the test's."""

from typing import Any

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

TESTS = """
import asyncio

import pytest

from muxleak import LeakError, find_leaks, simulate
from muxleak.sim.virtual_loop import VirtualLoop

KEPT = []


async def serve(reader, writer):
    KEPT.append(asyncio.create_task(asyncio.sleep(3600)))


async def leaks():
    await asyncio.start_server(serve, "127.0.0.1", 8000)
    await asyncio.open_connection("127.0.0.1", 8000)
    await asyncio.sleep(1)


async def blocks():
    await asyncio.start_server(serve, "127.0.0.1", 8000)
    await asyncio.Event().wait()


@pytest.mark.parametrize("program", [leaks, blocks])
def test_find_leaks(program):
    assert find_leaks(program) is not None


def test_simulate():
    with pytest.raises(LeakError):
        simulate(leaks)


def test_own_leak():
    async def main():
        KEPT.append(asyncio.create_task(asyncio.sleep(3600)))
        await asyncio.sleep(0)

    assert find_leaks(leaks, examples=1) is not None
    asyncio.run(main())


def test_loop_without_a_run():
    async def main():
        KEPT.append(asyncio.create_task(asyncio.sleep(3600)))
        await asyncio.sleep(0)

    loop = VirtualLoop()
    loop.run_until_complete(main())
    loop.close()
"""


def test_leaks_of_simulated_runs_are_not_the_tests_own(project: Project) -> None:
    """Its own leaks are, also on a virtual loop that no run has made."""
    project.write(TESTS)

    result = project.run("--leaks=strict")

    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["FAILED *test_own_leak*", "FAILED *test_loop_without_a_run*"])
