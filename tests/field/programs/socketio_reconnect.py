"""A client whose server has gone is told to stop while it waits to connect again."""

import asyncio

import socketio
from aiohttp import web


async def use() -> None:
    server = socketio.AsyncServer(async_mode="aiohttp", monitor_clients=False, ping_interval=0.2)
    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]

    client = socketio.AsyncClient(reconnection_delay=30)
    gone = asyncio.Event()
    client.on("disconnect", lambda *_: gone.set())
    await client.connect(f"http://127.0.0.1:{port}", transports=["websocket"])
    session = asyncio.create_task(client.wait())
    await server.shutdown()
    await runner.cleanup()
    await gone.wait()
    await asyncio.sleep(1.5)  # it waits to connect again, and `wait` for that

    session.cancel()
    await asyncio.wait([session], timeout=1)
