"""`no_leaks` on functions whose library runs or ends the loop in its own way."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import installed
from muxleak import LeakError, no_leaks

KEPT: list["asyncio.Task[Any]"] = []


@pytest.fixture(autouse=True)
def dropped() -> Any:
    """Keep nothing after the test."""
    yield
    KEPT.clear()
    asyncio.set_event_loop(None)


def start() -> None:
    """Start a task that nobody ends."""
    KEPT.append(asyncio.get_running_loop().create_task(asyncio.Event().wait()))


@pytest.mark.skipif(os.name == "nt", reason="sends itself a signal: needs POSIX")
@pytest.mark.parametrize("leaks", [True, False])
def test_web_app_that_leaves_a_task_is_found(leaks: bool) -> None:  # noqa: FBT001
    """The `run_app` of aiohttp cancels what is left by itself."""
    web = pytest.importorskip("aiohttp.web", reason="needs aiohttp: pip install aiohttp")

    async def begin(_app: Any) -> None:
        if leaks:
            start()

    def stop(*_args: Any) -> None:
        # It prints its address once it listens; earlier, it would leave its socket open.
        os.kill(os.getpid(), signal.SIGTERM)

    @no_leaks(budget=0.05)
    def serve() -> None:
        app = web.Application()
        app.on_startup.append(begin)
        web.run_app(app, host="127.0.0.1", port=0, print=stop)

    if leaks:
        with pytest.raises(LeakError, match="1 task leaked") as caught:
            serve()
        assert "in start" in str(caught.value)
        assert KEPT[0].done()
    else:
        serve()


def test_tasks_of_a_stopped_loop_may_be_looked_at() -> None:
    """A program that asks for them, and ends those it knows, is left alone."""

    async def begin() -> None:
        start()

    @no_leaks
    def program() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        assert asyncio.all_tasks(loop) == {KEPT[0]}
        assert not KEPT[0].done()
        KEPT[0].cancel()
        loop.run_until_complete(asyncio.wait(KEPT))
        loop.close()

    program()


def test_hooks_are_put_back() -> None:
    """Also after an error."""

    def values() -> list[Any]:
        base, running = asyncio.BaseEventLoop, asyncio.events._set_running_loop
        return [asyncio.all_tasks, running, base.__init__, base.run_forever]

    @no_leaks
    def program() -> None:
        assert [*map(id, values())] != before
        asyncio.run(asyncio.sleep(0))
        raise OSError("its own")

    before = [*map(id, values())]
    with pytest.raises(OSError, match="its own"):
        program()
    assert [*map(id, values())] == before


NESTED = """
import asyncio
import re
import traceback
import {package}
from muxleak import LeakError, no_leaks

FOUND = r"1 task leaked.*\\n.* 1 x wait\\n.* made at .* in work\\n.* waits in wait "

KEPT = []

async def wait():
    await asyncio.Event().wait()

async def work(leaks):
    if leaks:
        KEPT.append(asyncio.get_running_loop().create_task(wait()))
    await asyncio.sleep(0.01)

@no_leaks(budget=0.05)
def function(leaks):
    {run}

async def outer(leaks):
    async with no_leaks(budget=0.05):
        {inside}

for name, program in dict(function=function, block=lambda leaks: asyncio.run(outer(leaks))).items():
    for leaks in (True, False):
        try:
            program(leaks)
        except (LeakError, ExceptionGroup) as error:
            text = "".join(traceback.format_exception(error))
            print(name, leaks, "found" if re.search(FOUND, text) else text)
        else:
            print(name, leaks, "clean")
"""
PROGRAMS = {
    "nest-asyncio==1.6.0": {
        "package": "nest_asyncio",
        "run": "nest_asyncio.apply(); asyncio.run(work(leaks))",
        "inside": "asyncio.run(work(leaks))",
    },
    "nest-asyncio2==1.7.4": {
        "package": "nest_asyncio2",
        "run": "nest_asyncio2.apply(); asyncio.run(work(leaks))",
        "inside": "asyncio.run(work(leaks))",
    },
    "trio-asyncio==0.16.0": {
        "package": "trio_asyncio",
        "run": "trio_asyncio.run(trio_asyncio.aio_as_trio(work), leaks)",
        "inside": "await work(leaks)",
    },
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("package", PROGRAMS)
def test_loops_that_others_run_are_seen(
    package: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a function that runs the loop, and as a block inside it."""
    place = installed.environment(tmp_path_factory, "", package)
    program = NESTED.format(**PROGRAMS[package])
    if "trio" in package:
        program = program.replace(
            "lambda leaks: asyncio.run(outer(leaks))",
            "lambda leaks: trio_asyncio.run(trio_asyncio.aio_as_trio(outer), leaks)",
        )
    (tmp_path / "program.py").write_text(program)

    done = place.run("program.py", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "function True found",
        "function False clean",
        "block True found",
        "block False clean",
    ], done.stderr
