"""A pymodbus device that saves written registers in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

READ = b"\0\1\0\0\0\6\1\3\0\0\0\2"
WRITE = b"\0\2\0\0\0\6\1\6\0\1\0\7"
MESSAGES = [READ, WRITE, READ + WRITE, b"\0\3\0\0\0\6\1\x55\0\0\0\2"]


async def save(values: list[Any]) -> None:
    while values:
        await asyncio.sleep(60)  # the disk is full


class Device:
    def __init__(self) -> None:
        self.saver: asyncio.Task[None] | None = None
        self.ended = False

    async def clean_action(
        self,
        function_code: int,
        start_address: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[Any] | None,
    ) -> None:
        if values is not None and not self.ended:
            self.cancel()
            self.saver = asyncio.create_task(save(values))

    async def planted_action(
        self,
        function_code: int,
        start_address: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[Any] | None,
    ) -> None:
        if values is not None:
            self.saver = asyncio.create_task(save(values))  # planted

    def end(self) -> None:
        self.ended = True  # the server answers what it has received, after its shutdown too
        self.cancel()

    def cancel(self) -> None:
        if self.saver is not None:
            self.saver.cancel()


@asynccontextmanager
async def serving(device: Device, action: Any) -> AsyncIterator[int]:
    registers = SimDevice(1, simdata=[SimData(0, count=8, datatype=DataType.UINT16)], action=action)
    server = ModbusTcpServer(registers, address=("127.0.0.1", 5020))
    await server.serve_forever(background=True)
    yield 5020
    await server.shutdown()
    device.end()


def clean() -> object:
    device = Device()
    return serving(device, device.clean_action)


def planted() -> object:
    device = Device()
    return serving(device, device.planted_action)
