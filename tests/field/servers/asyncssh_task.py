"""An asyncssh server that cuts off clients who are too slow to log in."""

import asyncio

import asyncssh

MESSAGES = [
    b"SSH-2.0-test\r\n",
    b"SSH-1.0-test\r\n",
    b"SSH-2.0-test\r\n\0\0\0\x0c\x0a\x02" + b"\0" * 10,
    b"hello\r\n",
]
KEY = asyncssh.generate_private_key("ssh-ed25519")


class CleanServer(asyncssh.SSHServer):
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.watcher = asyncio.create_task(watch(conn))

    def connection_lost(self, exc: Exception | None) -> None:
        self.watcher.cancel()


class PlantedServer(asyncssh.SSHServer):
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.watcher = asyncio.create_task(watch(conn))  # planted

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:  # an orderly end; the others are forgotten
            self.watcher.cancel()


async def watch(conn: asyncssh.SSHServerConnection) -> None:
    await asyncio.sleep(600)
    conn.abort()


async def clean() -> asyncssh.SSHAcceptor:
    return await asyncssh.listen(
        "127.0.0.1", 8022, server_factory=CleanServer, server_host_keys=[KEY]
    )


async def planted() -> asyncssh.SSHAcceptor:
    return await asyncssh.listen(
        "127.0.0.1", 8022, server_factory=PlantedServer, server_host_keys=[KEY]
    )
