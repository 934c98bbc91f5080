"""Timers that a test leaves armed: a leak, unless a stated rule excuses it."""

import importlib.util
import textwrap
from typing import Any

import pytest

pytest_plugins = ["pytester"]

Project = Any  # conftest's; test folders are no packages, so that it cannot be imported

HEAD = """
import asyncio
import functools
import weakref
from unittest import mock

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio
KEPT = []

class Connection(asyncio.Protocol):
    transport = None

    def connection_made(self, transport):
        self.transport = transport
        asyncio.get_running_loop().call_later(75, self.idle)

    def idle(self):
        self.transport.close()

    def connection_lost(self, error):
        self.transport = None

class Client:
    def __init__(self):
        self.heart = Heart()

class Heart:
    def beat(self):
        asyncio.get_running_loop().call_later(30, self.beat)

def clean(reference):
    pass
"""

TESTS = {
    # The timers that are leaks.
    "reset": """
        async def test_it():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Connection, "127.0.0.1", 0)
            client, _ = await loop.create_connection(
                asyncio.Protocol, *server.sockets[0].getsockname()
            )
            await asyncio.sleep(0.01)
            client.abort()
            server.close()
            await asyncio.sleep(0.01)
        """,
    "request": """
        async def test_it():
            answer = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(60, answer.set_exception, TimeoutError())
            answer.set_result(1)
            await answer
        """,
    "kept in a list": """
        async def test_it():
            KEPT.append(Heart())
            KEPT[-1].beat()
        """,
    "function": """
        async def test_it():
            asyncio.get_running_loop().call_later(60, print)
        """,
    "closure": """
        async def test_it():
            heart = Heart()
            asyncio.get_running_loop().call_later(60, lambda: heart.beat())
        """,
    # The timers that are none.
    "due (excused)": """
        async def test_it():
            asyncio.get_running_loop().call_later(0.1, print)
        """,
    "weak (excused)": """
        async def test_it():
            heart = Heart()
            asyncio.get_running_loop().call_later(60, clean, weakref.ref(heart))
        """,
    "service of a module (excused)": """
        HEART = Heart()

        async def test_it():
            HEART.beat()
        """,
    "partial (excused)": """
        HEART = Heart()

        async def test_it():
            asyncio.get_running_loop().call_later(60, functools.partial(Heart.beat, HEART))
        """,
    "fixture of wider scope (excused)": """
        @pytest.fixture(scope="module")
        def client():
            return Client()

        async def test_it(client):
            client.heart.beat()
        """,
    "mock (excused)": """
        async def test_it():
            Connection().connection_made(mock.Mock())
        """,
}


@pytest.mark.parametrize("name", TESTS)
def test_timer_left_armed(project: Project, name: str) -> None:
    """Each situation is judged by the rules of docs/reports.md."""
    project.write(textwrap.dedent(HEAD) + textwrap.dedent(TESTS[name]))

    result = project.run("--leaks=strict")
    if name.endswith("(excused)"):
        result.assert_outcomes(passed=1)
    else:
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["1 timer left behind"])


@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp") is None, reason="needs: pip install aiohttp"
)
def test_timer_of_a_response_that_was_not_read(project: Project) -> None:
    """The timer of 300 s of aiohttp is reported, with the line that asks."""
    project.write(
        textwrap.dedent(HEAD)
        + textwrap.dedent("""
        import aiohttp
        from aiohttp import web

        async def test_it():
            async def answer(_request):
                return web.Response(body=b"x" * 10_000_000)

            app = web.Application()
            app.router.add_get("/", answer)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]
            async with aiohttp.ClientSession() as session:
                KEPT.append(await session.get(f"http://127.0.0.1:{port}/"))
            await runner.cleanup()
        """)
    )

    result = project.run("--leaks=strict", "-W", "ignore")
    result.stdout.fnmatch_lines(["*1 x timer: TimeoutHandle.__call__", "*is due in [23]?? s"])
