"""A server in a process of its own, which a check counts from outside.

Run as ``python watched_server.py VARIANT``; prints the port of the service and that of
``/debug/tasks``. A client that sends "watch" and leaves without "quit" leaves a task and a pipe in
the buggy variant. "die" ends the process. It flickers: a task comes and goes all the time, and the
first connection starts a service for all.
"""

import asyncio
import os
import sys

from muxleak import Monitor


class Server:
    """The server; `fixed` cleans up."""

    def __init__(self, *, fixed: bool) -> None:
        self.fixed = fixed
        self.kept: list[object] = []
        self.service: asyncio.Task[bool] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Echo lines."""
        if self.service is None:
            self.service = asyncio.create_task(asyncio.Event().wait())
        ticker: asyncio.Task[bool] | None = None
        ends: tuple[int, ...] = ()
        line = b""
        try:
            while line := await reader.readline():
                if line == b"watch\n" and ticker is None:
                    ticker, ends = asyncio.create_task(asyncio.Event().wait()), os.pipe()
                if line == b"die\n":
                    os._exit(3)
                if line == b"quit\n":
                    break
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.close()
            if ticker is not None and (self.fixed or line):
                ticker.cancel()
                for each in ends:
                    os.close(each)
            elif ticker is not None:
                self.kept.append(ticker)


async def flicker() -> None:
    """Start a task all the time, which ends soon."""
    while True:
        await asyncio.create_task(asyncio.sleep(0.01))
        await asyncio.sleep(0.01)


async def main(*, fixed: bool) -> None:
    """Serve until killed."""
    flickering = asyncio.create_task(flicker())
    with Monitor(interval=None) as monitor:
        server = await asyncio.start_server(Server(fixed=fixed).serve, "127.0.0.1", 0)
        _, debug = await monitor.listen()
        ports = f"{server.sockets[0].getsockname()[1]} {debug}\n"
        os.write(sys.stdout.fileno(), ports.encode())
        await flickering


if __name__ == "__main__":
    asyncio.run(main(fixed=sys.argv[1] == "fixed"))
