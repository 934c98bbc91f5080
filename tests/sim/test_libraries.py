"""Other people's servers run as they are: websockets and its client, aiohttp under requests."""

import asyncio
from typing import Any

import pytest

from muxleak import LeakError
from muxleak.search import find_leaks
from muxleak.sim import Network, current, simulate

WHERE = ("127.0.0.1", 8000)
SETTINGS: dict[str, Any] = {"network": Network(latency=(0.0, 0.05))}


@pytest.fixture
def websockets() -> Any:
    """The package, if it is installed."""
    pytest.importorskip("websockets", reason="needs websockets: pip install websockets")
    return pytest.importorskip("websockets.asyncio.server")


@pytest.fixture
def web() -> Any:
    """The package, if it is installed."""
    return pytest.importorskip("aiohttp.web", reason="needs aiohttp: pip install aiohttp")


def websocket_program(server: Any, *, leak: bool = False) -> Any:
    """A server that answers in capitals, and two clients of it."""
    client = pytest.importorskip("websockets.asyncio.client")

    async def serve(connection: Any) -> None:
        async for message in connection:
            if leak:
                _ = asyncio.get_running_loop().create_task(asyncio.Event().wait())
            await connection.send(message.upper())

    async def ask(text: str) -> str:
        async with client.connect(f"ws://127.0.0.1:{WHERE[1]}/", proxy=None) as connection:
            await connection.send(text)
            return str(await connection.recv())

    async def program() -> list[str]:
        async with server.serve(serve, *WHERE):
            return list(await asyncio.gather(ask("one"), ask("two")))

    return program


def test_websockets_server_and_client_run(websockets: Any) -> None:
    """Two clients are served and all is gone afterwards, in any order of arrivals."""
    program = websocket_program(websockets)

    assert simulate(program).value == ["ONE", "TWO"]
    assert find_leaks(program, examples=10, **SETTINGS) is None


def test_websockets_handler_that_leaks_is_found(websockets: Any) -> None:
    """A task that a handler starts is charged to its connection."""
    with pytest.raises(LeakError, match="of connection 1 to 127") as caught:
        simulate(websocket_program(websockets, leak=True))

    assert caught.value.report.total == 2


def aiohttp_program(web: Any, *, leak: bool = False) -> Any:
    """A web server, asked by hand over one connection, twice."""

    async def answer(request: Any) -> Any:
        if leak:
            _ = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        return web.Response(text=f"hello {request.match_info['name']}")

    async def program() -> list[bytes]:
        app = web.Application()
        app.router.add_get("/{name}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, *WHERE).start()
        reader, writer = await asyncio.open_connection(*WHERE)
        bodies = []
        for name in (b"one", b"two"):
            writer.write(b"GET /" + name + b" HTTP/1.1\r\nHost: test\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            bodies.append(await reader.readexactly(9))
        writer.close()
        await writer.wait_closed()
        await runner.cleanup()
        return bodies

    return program


def test_aiohttp_server_runs(web: Any) -> None:
    """Raw requests are answered and all is gone afterwards, in any order of arrivals."""
    program = aiohttp_program(web)

    assert simulate(program).value == [b"hello one", b"hello two"]
    assert find_leaks(program, examples=10, **SETTINGS) is None


def test_aiohttp_handler_that_leaks_is_found(web: Any) -> None:
    """A task that a handler starts is left over."""
    with pytest.raises(LeakError) as caught:
        simulate(aiohttp_program(web, leak=True))

    assert caught.value.report.total == 2


def test_aiohttp_connection_that_waits_for_ever_is_found(web: Any) -> None:
    """Its task is made by ``asyncio.Task`` itself from 3.12 on, past every task factory."""

    async def wait(_request: Any) -> Any:
        await asyncio.Event().wait()

    async def program() -> None:
        app = web.Application()
        app.router.add_get("/", wait)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, *WHERE)
        await site.start()
        _, writer = await asyncio.open_connection(*WHERE)
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await current().settle()
        writer.close()
        await writer.wait_closed()
        await site.stop()

    with pytest.raises(LeakError, match=r"RequestHandler\.start\n +made at \S*web_protocol\.py"):
        simulate(program)
