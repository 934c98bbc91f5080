"""A client of the older protocol leaves before its subscription has had a first result."""

import asyncio
from collections.abc import AsyncGenerator

import strawberry
from aiohttp import ClientSession, web
from strawberry.aiohttp.views import GraphQLView
from strawberry.subscriptions import GRAPHQL_WS_PROTOCOL

waiting = asyncio.Event()


@strawberry.type
class Query:
    hello: str = "hello"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def news(self) -> AsyncGenerator[str, None]:
        waiting.set()
        await asyncio.Event().wait()
        yield "news"


schema = strawberry.Schema(Query, subscription=Subscription)


async def use() -> None:
    waiting.clear()
    app = web.Application()
    app.router.add_route("GET", "/", GraphQLView(schema, keep_alive=False))
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    async with (
        ClientSession() as session,
        session.ws_connect(url, protocols=[GRAPHQL_WS_PROTOCOL]) as socket,
    ):
        await socket.send_json({"type": "connection_init"})
        assert (await socket.receive_json())["type"] == "connection_ack"
        query = {"query": "subscription { news }"}
        await socket.send_json({"type": "start", "id": "1", "payload": query})
        await waiting.wait()
    await runner.cleanup()
