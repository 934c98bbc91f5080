"""An aioftp server whose accounts count the minutes of each session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioftp

MESSAGES = [
    b"USER ann\r\n",
    b"PASS secret\r\n",
    b"USER ann\r\nPASS secret\r\n",
    b"PWD\r\n",
    b"MKD folder\r\n",
    b"EPSV\r\n",
    b"LIST\r\n",
]
LEAVING_MESSAGES = [*MESSAGES, b"QUIT\r\n"]

# Of a client that sends other bytes and leaves.
OPTIONS = {"allowed": UnicodeDecodeError}


class Accounts(aioftp.server.MemoryUserManager):
    """Counts the minutes of a session until its user logs out."""

    def __init__(self) -> None:
        super().__init__([aioftp.User("ann", "secret")])
        self.counters: list[asyncio.Task[None]] = []

    async def authenticate(self, user: aioftp.User, password: str) -> bool:
        granted: bool = await super().authenticate(user, password)
        if granted:
            self.counters.append(asyncio.create_task(count()))
        return granted

    async def notify_logout(self, user: aioftp.User) -> None:
        await super().notify_logout(user)
        while self.counters:
            self.counters.pop().cancel()


class ForgetfulAccounts(Accounts):
    """Forgets the counter if a user logs in for the second time."""

    counter: Any = None

    async def authenticate(self, user: aioftp.User, password: str) -> bool:
        granted: bool = await aioftp.server.MemoryUserManager.authenticate(self, user, password)
        if granted:
            self.counter = asyncio.create_task(count())  # planted
        return granted

    async def notify_logout(self, user: aioftp.User) -> None:
        await super().notify_logout(user)
        if self.counter is not None:
            self.counter.cancel()


async def count() -> None:
    while True:
        await asyncio.sleep(60)


@asynccontextmanager
async def serving(accounts: Accounts) -> AsyncIterator[int]:
    server = aioftp.Server(accounts, path_io_factory=aioftp.MemoryPathIO, wait_future_timeout=1)
    await server.start("127.0.0.1", 8021)
    yield 8021
    await server.close()


def clean() -> object:
    return serving(Accounts())


leaving = clean


def planted() -> object:
    return serving(ForgetfulAccounts())
