"""Reports on programs whose objects answer anything, and on a loop that must not block."""

import textwrap
from importlib.util import find_spec
from typing import Any

import pytest

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported


def test_class_whose_module_is_no_text(project: Project) -> None:
    """The search for who could wake a task names the holder's module, not its class."""
    project.write(
        textwrap.dedent("""
        import asyncio, pytest

        class Meta(type):
            __module__ = property(lambda cls: 0)

        class Holder(metaclass=Meta):
            pass

        holder = Holder()

        @pytest.mark.asyncio
        async def test_waits():
            holder.event = asyncio.Event()
            asyncio.create_task(holder.event.wait())
        """)
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*1 x Event.wait*", "*could still be woken by *.holder"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.skipif(find_spec("blockbuster") is None, reason="needs: pip install blockbuster")
@pytest.mark.parametrize("runner", ["run", "asyncio"])
def test_no_blocking_call_on_a_loop(project: Project, runner: str) -> None:
    """While blocking calls raise, the test fails by the report on its leak."""
    body = {
        "run": "def test_leak():\n    asyncio.run(main())\n",
        "asyncio": "@pytest.mark.asyncio\nasync def test_leak():\n    await main()\n",
    }[runner]
    project.write(
        textwrap.dedent("""
        import asyncio

        import pytest
        from blockbuster import blockbuster_ctx
        from muxleak import LeakError, no_leaks

        KEPT = []

        @pytest.fixture(autouse=True)
        def no_blocking_calls():
            with blockbuster_ctx():
                yield

        async def main():
            try:
                async with no_leaks():
                    KEPT.append(asyncio.create_task(asyncio.sleep(60)))
            except LeakError as error:
                assert "its timer fires in " in str(error)
            else:
                raise AssertionError("no report")
            KEPT.append(asyncio.create_task(asyncio.sleep(60)))
            await asyncio.sleep(0)
        """)
        + body
    )

    result = project.run("--leaks=strict")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*BlockingError*")
    result.stdout.fnmatch_lines(["*1 x sleep*", "*its timer fires in [56]? s; budget= decides*"])
