"""Connecting to a peer that never answers is cancelled, and the connection is closed."""

import asyncio

import aioice


async def use() -> None:
    connection = aioice.Connection(ice_controlling=True)
    await connection.gather_candidates()
    connection.remote_username = "user"
    connection.remote_password = "password of the peer"
    await connection.add_remote_candidate(
        aioice.Candidate("1", 1, "udp", 2130706431, "127.0.0.1", 9, "host")
    )
    await connection.add_remote_candidate(None)
    task = asyncio.create_task(connection.connect())
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task])
    await connection.close()
