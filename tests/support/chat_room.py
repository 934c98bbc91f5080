"""A chat room that keeps the sender of each client by name, and forgets one if a name is taken."""

import asyncio


class ChatRoom:
    """Serves clients that send a name, then lines; each line goes to everybody."""

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed
        self.inboxes: dict[str, asyncio.Queue[bytes]] = {}
        self.senders: dict[str, asyncio.Task[None]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        name = (await reader.readline()).decode().strip()
        if self.fixed and name in self.senders:
            writer.close()  # the name is taken
            return
        inbox = self.inboxes[name] = asyncio.Queue()
        self.senders[name] = asyncio.create_task(self.send(inbox, writer))
        try:
            while line := await reader.readline():
                for each in self.inboxes.values():
                    each.put_nowait(f"{name}: ".encode() + line)
        finally:
            if name in self.senders:
                self.senders.pop(name).cancel()
                del self.inboxes[name]
            writer.close()

    async def send(self, inbox: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        """Send one client its lines."""
        while True:
            writer.write(await inbox.get())
            await writer.drain()
