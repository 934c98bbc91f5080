"""Task groups in fixtures and tests: ending a leak ends no other task, test or fixture."""

import importlib.util
import textwrap
from typing import Any

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("anyio") is None,
    reason="needs anyio: pip install anyio (the extra `dev` has it)",
)

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

RUNNERS = {
    "anyio": (
        "pytest.mark.anyio",
        """
@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture(scope="module")""",
    ),
    "asyncio": (
        'pytest.mark.asyncio(loop_scope="module")',
        'import pytest_asyncio\n\n@pytest_asyncio.fixture(scope="module", loop_scope="module")',
    ),
}
GROUPS = {"anyio": "anyio.create_task_group()", "asyncio": "asyncio.TaskGroup()"}
START = {"anyio": "start_soon(%s)", "asyncio": "create_task(%s())"}


# pytest-asyncio sets fixtures up and down in different tasks, which a group of anyio's refuses.
@pytest.mark.parametrize(
    ("runner", "kind"), [("anyio", "anyio"), ("anyio", "asyncio"), ("asyncio", "asyncio")]
)
def test_group_of_a_wider_fixture_outlives_a_leaking_test(
    project: Project, runner: str, kind: str
) -> None:
    """The test that leaks into the fixture's group fails; the service and later tests go on."""
    mark, fixture = RUNNERS[runner]
    project.write(
        textwrap.dedent(f"""
        import asyncio

        import anyio
        import pytest

        pytestmark = {mark}
        SEND, RECEIVE = [], []
        """)
        + fixture
        + textwrap.dedent(f"""
        async def group():
            async with {GROUPS[kind]} as group:
                send, receive = anyio.create_memory_object_stream(1)

                async def echo():
                    async with send, receive:
                        async for answer in receive:
                            answer.set()

                group.{START[kind] % "echo"}
                yield group, send.clone()
                await send.aclose()
                cancel = getattr(group, "cancel_scope", None)
                if cancel is not None:
                    cancel.cancel()
                else:
                    for task in group._tasks:
                        task.cancel()

        async def ask(send):
            answer = anyio.Event()
            await send.send(answer)
            with anyio.fail_after(5):
                await answer.wait()

        async def test_first(group):
            await ask(group[1])

        async def test_leaks(group):
            group[0].{START[kind] % "anyio.sleep_forever"}
            await ask(group[1])

        async def test_later(group):
            await ask(group[1])

        async def test_last(group):
            await ask(group[1])
        """)
    )

    result = project.run("--leaks=strict", "-p", "anyio.pytest_plugin")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*1 task left behind*", "FAILED *::test_leaks*"])


@pytest.mark.parametrize("runner", ["anyio", "asyncio"])
@pytest.mark.parametrize("kind", GROUPS)
def test_group_of_a_test_around_a_check(project: Project, runner: str, kind: str) -> None:
    """A check inside the group of a test fails the test, whose rest is not skipped silently."""
    project.write(
        textwrap.dedent(f"""
        import asyncio

        import anyio
        import pytest
        from muxleak import no_leaks

        pytestmark = pytest.mark.{runner}

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_repeated():
            async with {GROUPS[kind]} as group:
                async def connection():
                    group.{START[kind] % "anyio.sleep_forever"}
                await no_leaks(repeat=6)(connection)()
                assert False, "never reached"

        async def test_goes_on():
            async with {GROUPS[kind]} as group:
                try:
                    async with no_leaks():
                        group.{START[kind] % "anyio.sleep_forever"}
                except AssertionError:
                    pass
                await anyio.sleep(0.01)
                raise RuntimeError("the rest of the test")
        """)
    )

    result = project.run("--leaks=warn", "-p", "anyio.pytest_plugin")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*LeakError: still growing*", "*the rest of the test*"])
    result.stdout.no_fnmatch_line("E *never reached*")
