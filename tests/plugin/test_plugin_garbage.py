"""Leaks that show at a collection only: charged to the test that made them, whenever it runs."""

from typing import Any

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

SUITE = """
    import asyncio
    import gc

    import pytest

    pytestmark = pytest.mark.asyncio

    WAITED = []

    async def wait():
        WAITED.append(asyncio.get_running_loop().create_future())
        await WAITED[-1]

    class Call:
        def __init__(self):
            self.task = asyncio.ensure_future(wait())
            self.cycle = self

        def __del__(self):
            self.task.cancel()

    async def fail():
        me = asyncio.current_task()
        await asyncio.sleep(0)
        raise ConnectionResetError("lost")

    @pytest.fixture(autouse=True)
    def no_chance():
        gc.disable()
        yield
        gc.enable()

    @pytest.mark.parametrize("collected", [False, True])
    async def test_call(collected):
        Call()
        if collected:
            gc.collect()

    @pytest.mark.parametrize("collected", [False, True])
    async def test_fails(collected):
        asyncio.ensure_future(fail())
        await asyncio.sleep(0.001)
        if collected:
            gc.collect()

    async def test_after():
        await asyncio.sleep(0)
    """


def test_verdict_does_not_depend_on_the_collector(project: Project) -> None:
    """A task that a finalizer ends is no leak; an exception in a cycle is one, of its own test."""
    project.write(SUITE)
    result = project.run("--leaks=strict", "-rA")
    result.assert_outcomes(passed=3, failed=2)
    made = project.line("ensure_future(fail())")
    for collected in (False, True):
        result.stdout.fnmatch_lines([f"FAILED test_it.py::test_fails[[]{collected}] -*"])
    assert sum(f"made at {made} in test_fails" in line for line in result.outlines) >= 2


def test_warning_names_an_exception_in_a_cycle(project: Project) -> None:
    """With leaks = warn the tests pass."""
    project.write(SUITE)
    result = project.run("--leaks=warn")
    result.assert_outcomes(passed=5, warnings=2)
    result.stdout.fnmatch_lines(["*1 exception never retrieved left behind*"])
