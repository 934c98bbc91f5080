"""A telnetlib3 shell that reads its commands from an asynchronous generator."""

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import telnetlib3

MESSAGES = [
    b"hello\r\n",
    b"quit\r\n",
    b"\xff\xfc\x18",
    b"\xff\xfb\x1f\xff\xfa\x1f\0\x50\0\x18\xff\xf0",
]


async def commands(reader: Any) -> AsyncIterator[str]:
    while command := (await reader.readline()).strip():
        yield command


async def clean_shell(reader: Any, writer: Any) -> None:
    with suppress(ConnectionError):
        async with aclosing(commands(reader)) as received:
            async for command in received:
                if command == "quit":
                    break
                writer.write(command + "\r\n")
    writer.close()


class Shells:
    """Shells that keep their commands, so that nothing closes the generators."""

    def __init__(self) -> None:
        self.sources: list[AsyncIterator[str]] = []

    async def planted_shell(self, reader: Any, writer: Any) -> None:
        self.sources.append(commands(reader))
        with suppress(ConnectionError):
            async for command in self.sources[-1]:  # planted
                if command == "quit":
                    break
                writer.write(command + "\r\n")
        writer.close()


async def serving(shell: Any) -> Any:
    return await telnetlib3.create_server("127.0.0.1", 8023, shell=shell, encoding_errors="replace")


def clean() -> Any:
    return serving(clean_shell)


def planted() -> Any:
    return serving(Shells().planted_shell)
