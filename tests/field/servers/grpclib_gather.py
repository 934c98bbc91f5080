"""A grpclib service that answers from two sources at once."""

import asyncio
from typing import Any

from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler
from grpclib.encoding.base import CodecBase
from grpclib.server import Server, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection


class Bytes(CodecBase):
    __content_subtype__ = "bytes"

    def encode(self, message: Any, _type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, _type: Any) -> bytes:
        return data


def request(end: bool) -> bytes:  # noqa: FBT001
    connection = H2Connection(H2Configuration(client_side=True))
    connection.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/test.Search/Find"),
        (":authority", "test"),
        ("te", "trailers"),
        ("content-type", "application/grpc+bytes"),
    ]
    connection.send_headers(1, headers)
    connection.send_data(1, b"\0\0\0\0\5hello", end_stream=end)
    return connection.data_to_send()


MESSAGES = [request(end=True), request(end=False)]
# It closes a connection on which a frame of an unknown type arrives, by this exception.
OPTIONS = {"allowed": NotImplementedError}


async def ask(source: float) -> bytes:
    await asyncio.sleep(source)
    return b"found"


async def store(word: bytes) -> None:
    while word:
        await asyncio.sleep(60)  # the store is never there


class Search:
    async def find(self, stream: Stream[bytes, bytes]) -> None:
        message = await stream.recv_message()
        if message is not None:
            first, second = await asyncio.gather(ask(1), ask(2))
            await stream.send_message(first + second)

    def __mapping__(self) -> dict[str, Handler]:
        return {"/test.Search/Find": Handler(self.find, Cardinality.UNARY_UNARY, None, None)}


class PlantedSearch(Search):
    async def find(self, stream: Stream[bytes, bytes]) -> None:
        message = await stream.recv_message()
        if message is not None:
            asyncio.gather(store(message), ask(1))  # planted
            await stream.send_message(await ask(2))


class Serving(Server):
    async def __aenter__(self) -> Any:
        await self.start("127.0.0.1", 8081)
        return 8081


def serving(service: Search) -> Serving:
    return Serving([service], codec=Bytes(), config=Configuration())


def clean() -> object:
    return serving(Search())


def planted() -> object:
    return serving(PlantedSearch())
