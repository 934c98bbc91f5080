"""An aiosmtpd handler that delivers mails in the background, and tries again for a day."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope

MESSAGES = [
    b"EHLO test\r\n",
    b"MAIL FROM:<ann@test>\r\n",
    b"RCPT TO:<bob@test>\r\n",
    b"DATA\r\nhello\r\n.\r\n",
    b"QUIT\r\n",
    b"EHLO test\r\nMAIL FROM:<ann@test>\r\nRCPT TO:<bob@test>\r\n",
]


class Postman:
    """One task that delivers all mails of a queue, which ends with the server."""

    def __init__(self) -> None:
        self.mails: asyncio.Queue[Envelope] = asyncio.Queue()
        self.task = asyncio.create_task(self.work())

    async def work(self) -> None:
        while True:
            await deliver(await self.mails.get())

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.mails.put_nowait(envelope)
        return "250 OK"


class HastyPostman(Postman):
    """A task for each mail, which nobody keeps."""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        asyncio.create_task(deliver(envelope))  # noqa: RUF006  # planted
        return "250 OK"


async def deliver(envelope: Envelope) -> None:
    for _ in range(24):
        assert envelope.rcpt_tos
        await asyncio.sleep(3600)  # the receiving host is never there


@asynccontextmanager
async def serving(handler: type[Postman]) -> AsyncIterator[asyncio.Server]:
    postman = handler()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(postman, hostname="test"), "127.0.0.1", 8025)
    yield server
    server.close()
    postman.task.cancel()


def clean() -> object:
    return serving(Postman)


def planted() -> object:
    return serving(HastyPostman)
