"""A socket is given to the loop and not taken back."""

import asyncio
import socket

PAIRS: list[tuple[socket.socket, socket.socket]] = []


def readable() -> None:
    pass


async def operation() -> None:
    # Both ends stay open; no hook says where a descriptor was made.
    # leak: descriptor at unknown (growth)
    pair = socket.socketpair()
    PAIRS.append(pair)
    asyncio.get_running_loop().add_reader(pair[0], readable)  # leak: reader
    await asyncio.sleep(0)
