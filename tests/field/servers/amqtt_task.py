"""An amqtt broker with a plugin that watches each client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from amqtt.broker import Broker
from amqtt.errors import ProtocolHandlerError
from amqtt.plugins.base import BasePlugin

from muxleak.server import EVENTS

CONNECT = b"\x10\x0f\0\4MQTT\4\2\0\5\0\3ann"  # alive every 5 s
MESSAGES = [
    CONNECT,
    CONNECT + b"\x82\x09\0\1\0\4news\0",
    b"\x82\x09\0\1\0\4news\0",
    b"\x30\x0b\0\4newshello",
    b"\xc0\0",
    b"\xe0\0",
]

# Nobody cancels its handlers; it cancels the tasks of packets, which turn that into the first
# exception. It raises the other when it closes a connection that has been reset.
OPTIONS = {
    "events": [each for each in EVENTS if each != "cancel"],
    "allowed": (ProtocolHandlerError, OSError),
}


async def watch() -> None:
    while True:
        await asyncio.sleep(300)


class CleanPlugin(BasePlugin[Any]):
    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.watchers: dict[str, asyncio.Task[None]] = {}

    async def on_broker_client_connected(self, *, client_id: str, **_: Any) -> None:
        self.end(client_id)
        self.watchers[client_id] = asyncio.create_task(watch())

    async def on_broker_client_disconnected(self, *, client_id: str, **_: Any) -> None:
        self.end(client_id)

    async def close(self) -> None:
        for client_id in list(self.watchers):
            self.end(client_id)

    def end(self, client_id: str) -> None:
        if client_id in self.watchers:
            self.watchers.pop(client_id).cancel()


class PlantedPlugin(CleanPlugin):
    async def on_broker_client_connected(self, *, client_id: str, **_: Any) -> None:
        self.watchers[client_id] = asyncio.create_task(watch())  # planted

    async def on_broker_client_disconnected(self, *, client_id: str, **_: Any) -> None:
        self.watchers.pop(client_id, None)


@asynccontextmanager
async def serving(plugin: str) -> AsyncIterator[int]:
    config = {
        "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:1883"}},
        "plugins": {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
            f"{__name__}.{plugin}": {},
        },
    }
    broker = Broker(config)
    await broker.start()
    yield 1883
    await broker.shutdown()


def clean() -> object:
    return serving("CleanPlugin")


def planted() -> object:
    return serving("PlantedPlugin")
