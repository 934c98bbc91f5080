"""Creation sites: the frames that are captured, interning, and the text."""

import asyncio
import importlib
import selectors
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from creation_sites import site
from muxleak.introspect import sites
from muxleak.introspect.sites import MAX_FRAMES, Site, add_wrappers, capture, short_path
from muxleak.ledger.kinds import KINDS
from muxleak.ledger.ledger import Ledger


def here() -> Site:
    """Return the caller's site."""
    return capture(2)


def nest(depth: int, action: Callable[[], Site]) -> Site:
    """Call `action` from so many frames further down."""
    return action() if depth == 0 else nest(depth - 1, action)


def test_capture_names_file_line_and_function() -> None:
    """A site reads as file:line in function, with no absolute path."""
    site = here()

    line = test_capture_names_file_line_and_function.__code__.co_firstlineno + 2
    name = "test_capture_names_file_line_and_function"
    assert str(site) == f"tests/harness/test_sites.py:{line} in {name}"
    assert site.frames[0].filename == __file__
    assert repr(site) == f"<Site {site}>"


def test_capture_interns_equal_sites() -> None:
    """The same lines give the same object; another line gives another."""
    first, second = here(), here()
    other = here()

    assert first is second
    assert other is not first


def test_capture_keeps_few_frames_innermost_first() -> None:
    """However deep the stack, a site has at most four frames."""
    site = nest(30, here)

    assert len(site.frames) == MAX_FRAMES
    assert [frame.function for frame in site.frames] == ["nest"] * MAX_FRAMES
    assert site is nest(30, here)


def test_capture_skips_asyncio_and_stops_at_the_loop() -> None:
    """Inside a loop the site holds neither asyncio's frames nor those that started the loop."""
    found: list[Site] = []

    async def outer() -> None:
        await asyncio.wait_for(inner(), 1)

    async def inner() -> None:
        found.append(here())

    asyncio.run(outer())

    functions = [frame.function for frame in found[0].frames]
    assert functions[0].endswith("inner")
    assert all("test_capture_skips" in function for function in functions)
    assert {frame.filename for frame in found[0].frames} == {__file__}
    assert test_capture_skips_asyncio_and_stops_at_the_loop.__name__ not in functions


def test_capture_without_a_caller_of_its_own_reads_as_unknown() -> None:
    """A site without frames still has a text."""
    assert str(Site(())) == "unknown"


def test_short_path_of_a_python_below_the_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are named by their package all the same."""
    monkeypatch.chdir(Path(asyncio.__file__).parents[2])
    assert short_path(asyncio.__file__) == "asyncio/__init__.py"
    assert short_path(selectors.__file__) == "selectors.py"


def test_short_path_is_relative_to_directory_or_package() -> None:
    """Paths below the working directory are relative to it, others to their package."""
    assert short_path(str(Path.cwd() / "some" / "file.py")) == "some/file.py"
    assert short_path(asyncio.__file__) == "asyncio/__init__.py"
    assert short_path(ExitStack.__enter__.__code__.co_filename) == "contextlib.py"
    assert short_path("<string>") == "<string>"


FRAMEWORK = """
import asyncio

class Group:
    def spawn(self, coro):
        return self._spawn(coro)

    def _spawn(self, coro):
        return asyncio.get_running_loop().create_task(coro)

def handler():
    return Group().spawn(asyncio.sleep(0))
"""


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package with wrapper functions, which nobody has named yet."""
    folder = tmp_path / "a_framework"
    folder.mkdir()
    (folder / "__init__.py").write_text(FRAMEWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("a_framework")
    sites.WRAPPERS.pop("a_framework", None)
    # The code of the next such package is equal to that of this one.
    sites._by_code.clear()
    monkeypatch.delitem(sys.modules, "a_framework")


async def task_sites(*makers: Callable[[], Any]) -> list[Site]:
    """Return the sites of the tasks that some functions make."""
    found = []
    for make in makers:
        with Ledger().watching(asyncio.get_running_loop()) as ledger:
            made = make()
            found += [record.site for record in ledger.live()]
            made.cancel()
            await asyncio.sleep(0)
    return found


def test_wrappers_are_passed_over(framework: Any) -> None:
    """With its wrappers named, a framework shows the lines of its callers, in it and outside."""

    def caller() -> Any:
        return framework.Group().spawn(asyncio.sleep(0))

    makers = caller, framework.handler
    before = asyncio.run(task_sites(*makers))
    add_wrappers("a_framework", "spawn", "_spawn")
    named = asyncio.run(task_sites(*makers))
    add_wrappers("a_framework", "*")
    all_of_it = asyncio.run(task_sites(*makers))

    assert [site.frames[0].function for site in before] == ["Group._spawn"] * 2
    assert [site.frames[0].function for site in named] == [caller.__qualname__, "handler"]
    assert [site.frames[0].function for site in all_of_it] == [
        caller.__qualname__,
        task_sites.__qualname__,
    ]


def test_wrappers_are_shown_if_nothing_follows(framework: Any) -> None:
    """A framework that acts on its own account is named by its own lines."""
    add_wrappers("a_framework", "*")

    async def main() -> Site:
        with Ledger().watching(asyncio.get_running_loop()) as ledger:
            asyncio.get_running_loop().call_soon(framework.handler)
            await asyncio.sleep(0)
            (record,) = ledger.live()
        return record.site

    functions = [frame.function for frame in asyncio.run(main()).frames]
    assert functions == ["Group._spawn", "Group.spawn", "handler"]


def test_wrappers_need_a_function() -> None:
    """A package alone says nothing."""
    with pytest.raises(TypeError, match="expected names of functions"):
        add_wrappers("a_framework")


def test_wrappers_of_anyio() -> None:
    """Tasks of a group have the lines that start them."""
    anyio = pytest.importorskip("anyio", reason="needs anyio: pip install anyio")

    async def main() -> list[str]:
        async def service(*, task_status: Any) -> None:
            task_status.started()
            await anyio.sleep(60)

        with Ledger().watching(asyncio.get_running_loop()) as ledger:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 60)
                await group.start(service)
                found = [str(record.site) for record in ledger.live()]
                group.cancel_scope.cancel()
        return found

    first = main.__code__.co_firstlineno + 7
    assert asyncio.run(main()) == [
        f"tests/harness/test_sites.py:{line} in {main.__qualname__}" for line in (first, first + 1)
    ]


def test_wrappers_of_tornado() -> None:
    """Timers of its loop have the lines that set them."""
    ioloop = pytest.importorskip("tornado.ioloop", reason="needs tornado: pip install tornado")

    async def main() -> list[str]:
        with Ledger(KINDS).watching(asyncio.get_running_loop()) as ledger:
            loop = ioloop.IOLoop.current()
            with ledger.scope("one") as scope:
                loop.call_later(60, print)
                loop.add_timeout(loop.time() + 60, print)
            found = scope.everything()
            for record in found:
                record.thing().cancel()
        return [str(record.site) for record in found]

    first = main.__code__.co_firstlineno + 4
    assert asyncio.run(main()) == [
        f"tests/harness/test_sites.py:{line} in {main.__qualname__}" for line in (first, first + 1)
    ]


async def of_asyncssh(module: Any) -> None:
    """Make a task by a connection, without a network."""
    connection = module.SSHClientConnection.__new__(module.SSHClientConnection)
    connection._tasks = set()
    await connection.create_task(asyncio.Event().wait())


async def of_engineio(module: Any) -> None:
    """Make a task by a server, as programs do; socketio's is alike."""
    await module.AsyncServer(async_mode="asgi").start_background_task(asyncio.Event().wait)


async def of_hypercorn(module: Any) -> None:
    """Make a task by the group of a worker."""
    async with module.TaskGroup(asyncio.get_running_loop()) as group:
        group.spawn(asyncio.Event().wait)


@pytest.mark.parametrize(
    ("module", "package", "make", "call"),
    [
        ("asyncssh", "asyncssh", of_asyncssh, "create_task("),
        ("engineio", "python-engineio", of_engineio, "start_background_task("),
        ("socketio", "python-socketio", of_engineio, "start_background_task("),
        ("hypercorn.asyncio.task_group", "hypercorn", of_hypercorn, "spawn("),
    ],
)
def test_wrappers_that_make_a_task(module: str, package: str, make: Any, call: str) -> None:
    """The task has the line that calls the framework."""
    framework = pytest.importorskip(module, reason=f"needs {package}: pip install {package}")

    async def main() -> list[str]:
        with Ledger().watching(asyncio.get_running_loop()) as ledger:
            outer = asyncio.create_task(make(framework))
            await asyncio.sleep(0)
            found = [str(record.site) for record in ledger.live() if record.task is not outer]
            outer.cancel()
            await asyncio.wait([outer])
        return found

    assert asyncio.run(main()) == [site(make, call)]
